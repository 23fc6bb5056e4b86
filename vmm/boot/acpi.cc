#include "vmm/boot/acpi.h"

#include <numeric>
#include <span>
#include <stdexcept>
#include <string_view>

#include "vmm/boot/aml.h"
#include "vmm/boot/bytes.h"
#include "vmm/boot/layout.h"

namespace godwit::boot {
namespace {

using Bytes = std::vector<std::uint8_t>;

constexpr std::size_t kHeaderSize = 36;
constexpr std::size_t kRsdpSize = 36;
constexpr std::size_t kFadtSize = 276;

void append(Bytes& out, const auto& value) {
  const auto raw = std::as_bytes(std::span(&value, 1));
  for (const std::byte b : raw) out.push_back(std::to_integer<std::uint8_t>(b));
}

void append_text(Bytes& out, std::string_view text) {
  out.insert(out.end(), text.begin(), text.end());
}

std::span<std::byte> writable_bytes(Bytes& table) {
  return std::as_writable_bytes(std::span(table));
}

/// The byte that makes [first, first + size) sum up to zero.
std::uint8_t checksum(const Bytes& bytes, std::size_t size) {
  const auto end = bytes.begin() + static_cast<std::ptrdiff_t>(size);
  return static_cast<std::uint8_t>(-std::accumulate(bytes.begin(), end, 0u));
}

/// System description table header (5.2.6) and body.
Bytes table(std::string_view signature, std::uint8_t revision, const Bytes& body) {
  Bytes out;
  append_text(out, signature);
  append(out, static_cast<std::uint32_t>(kHeaderSize + body.size()));
  out.push_back(revision);
  out.push_back(0);  // checksum
  append_text(out, "GODWIT");
  append_text(out, "GODWITVM");
  append(out, std::uint32_t{1});
  append_text(out, "GDWT");
  append(out, std::uint32_t{1});
  out.insert(out.end(), body.begin(), body.end());
  out[9] = checksum(out, out.size());
  return out;
}

Bytes dsdt() {
  using namespace aml;  // NOLINT(google-build-using-namespace): the table reads as ASL
  const Bytes pci = device(
      "PCI0", join({
                  name("_HID", eisa_id("PNP0A03")),
                  name("_UID", integer(0)),
                  name("_CRS", resource_template({
                                   bus_numbers(0, 0),
                                   io_ports(kPciConfigPort, kPciConfigPortCount),
                                   memory_window(static_cast<std::uint32_t>(kPciWindow),
                                                 static_cast<std::uint32_t>(kPciWindowEnd - 1)),
                               })),
              }));
  // Without a legacy PIC Linux takes the serial port's interrupt from here and nowhere else.
  const Bytes serial =
      device("COM1", join({
                         name("_HID", eisa_id("PNP0501")),
                         name("_UID", integer(1)),
                         name("_CRS", resource_template({io_ports(kSerialPort, kSerialPortCount),
                                                         edge_interrupt(kSerialGsi)})),
                     }));
  const Bytes power_button = device("PWRB", join({
                                                name("_HID", eisa_id("PNP0C0C")),
                                                name("_UID", integer(0)),
                                            }));
  // Generic event device (5.6.9): what happened is in the power device's register.
  const Bytes events = device(
      "GED_",
      join({
          name("_HID", string("ACPI0013")),
          name("_UID", integer(0)),
          name("_CRS", resource_template({edge_interrupt(kPowerButtonGsi)})),
          io_register("EVRG", "EVTS", kEventsPort),
          serialized_method("_EVT", 1,
                            join({
                                store_local("EVTS"),
                                if_local_bits(kEventPowerButton, notify("\\_SB_.PWRB", 0x80)),
                                if_local_bits(kEventGeneration, notify("\\_SB_.VGEN", 0x80)),
                            })),
      }));
  const Bytes generation =
      device("VGEN", join({
                         name("_HID", string("GDWT0001")),
                         name("_CID", string("VM_Gen_Counter")),
                         name("_DDN", string("VM_Gen_Counter")),
                         name("ADDR", package({integer(kGenerationId), integer(0)})),
                     }));
  const Bytes panic = device("PEVT", join({
                                         name("_HID", string("QEMU0001")),
                                         name("_UID", integer(0)),
                                         name("_STA", integer(0x0f)),
                                         name("_CRS", resource_template({io_ports(kPanicPort, 1)})),
                                     }));
  const Bytes sleep =
      name("\\_S5_", package({integer(kSleepTypeS5), integer(0), integer(0), integer(0)}));
  return table(
      "DSDT", 2,
      join({scope("\\_SB_", join({pci, serial, power_button, generation, panic, events})), sleep}));
}

/// 5.2.9. Offsets are those of the specification's table 5.9.
Bytes fadt(std::uint64_t dsdt_address) {
  constexpr std::uint16_t kNoVga = 1 << 2;
  constexpr std::uint16_t kNoCmosRtc = 1 << 5;
  constexpr std::uint32_t kWbinvd = 1 << 0;
  constexpr std::uint32_t kNoFixedPowerButton = 1 << 4;
  constexpr std::uint32_t kNoFixedSleepButton = 1 << 5;
  constexpr std::uint32_t kResetRegisterSupported = 1 << 10;
  constexpr std::uint32_t kHardwareReduced = 1 << 20;

  Bytes out = table("FACP", 6, Bytes(kFadtSize - kHeaderSize));
  const auto put = [&](std::size_t offset, auto value) {
    poke(writable_bytes(out), offset, value);
  };
  // Generic address structure (5.2.3.2) of one byte in I/O space.
  const auto put_port = [&](std::size_t offset, std::uint16_t port) {
    put(offset + 0, std::uint8_t{1});  // I/O space
    put(offset + 1, std::uint8_t{8});  // bits
    put(offset + 3, std::uint8_t{1});  // byte access
    put(offset + 4, std::uint64_t{port});
  };
  put(109, static_cast<std::uint16_t>(kNoVga | kNoCmosRtc));
  put(112, kWbinvd | kNoFixedPowerButton | kNoFixedSleepButton | kResetRegisterSupported |
               kHardwareReduced);
  put_port(116, kResetPort);
  put(128, kResetValue);
  put(131, std::uint8_t{4});  // minor version: 6.4
  put(140, dsdt_address);
  put_port(244, kSleepControlPort);
  put_port(256, kSleepStatusPort);
  out[9] = 0;
  out[9] = checksum(out, out.size());
  return out;
}

/// 5.2.12: the local APICs, ids as vCPU indices, and the one I/O APIC.
Bytes madt(unsigned cpus) {
  Bytes body;
  append(body, static_cast<std::uint32_t>(kLocalApic));
  append(body, std::uint32_t{0});  // no PC-AT PICs
  for (unsigned cpu = 0; cpu < cpus; ++cpu) {
    const auto id = static_cast<std::uint8_t>(cpu);
    body.insert(body.end(), {0, 8, id, id});
    append(body, std::uint32_t{1});  // enabled
  }
  body.insert(body.end(), {1, 12, 0, 0});  // I/O APIC, id 0
  append(body, static_cast<std::uint32_t>(kIoApic));
  append(body, std::uint32_t{0});  // first GSI
  return table("APIC", 5, body);
}

Bytes xsdt(std::initializer_list<std::uint64_t> addresses) {
  Bytes body;
  for (const std::uint64_t address : addresses) append(body, address);
  return table("XSDT", 1, body);
}

/// 5.2.5.3
Bytes rsdp(std::uint64_t xsdt_address) {
  Bytes out;
  append_text(out, "RSD PTR ");
  out.push_back(0);  // checksum of the first 20 bytes
  append_text(out, "GODWIT");
  out.push_back(2);               // revision
  append(out, std::uint32_t{0});  // no RSDT
  append(out, static_cast<std::uint32_t>(kRsdpSize));
  append(out, xsdt_address);
  append(out, std::uint32_t{0});  // checksum of all, reserved
  out[8] = checksum(out, 20);
  out[32] = checksum(out, kRsdpSize);
  return out;
}

}  // namespace

Bytes build_acpi_tables(unsigned cpus) {
  if (cpus == 0 || cpus > kMaxCpus) throw std::invalid_argument("1 to 16 CPUs");
  Bytes out(kRsdpSize);
  const auto add = [&out](const Bytes& table) {
    out.resize((out.size() + 15) / 16 * 16);
    const std::uint64_t address = kAcpiTables + out.size();
    out.insert(out.end(), table.begin(), table.end());
    return address;
  };
  const std::uint64_t dsdt_address = add(dsdt());
  const std::uint64_t fadt_address = add(fadt(dsdt_address));
  const std::uint64_t madt_address = add(madt(cpus));
  const Bytes root = rsdp(add(xsdt({fadt_address, madt_address})));
  std::copy(root.begin(), root.end(), out.begin());
  if (out.size() > kGenerationId - kAcpiTables) throw std::logic_error("ACPI tables too large");
  return out;
}

std::uint64_t write_acpi_tables(unsigned cpus, memory::GuestMemory& memory) {
  const Bytes tables = build_acpi_tables(cpus);
  if (!memory.write(kAcpiTables, std::as_bytes(std::span(tables)))) {
    throw std::runtime_error("a guest needs at least 2 MiB of memory");
  }
  return kAcpiTables;
}

}  // namespace godwit::boot
