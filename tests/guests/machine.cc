// Start-up, interrupts, ACPI and the second vCPU.
#include "guest.h"
#include "start_info.h"
#include "trampoline.h"
#include "vmm/boot/layout.h"

extern "C" {
extern const char exception_stubs[], trampoline_begin[], trampoline_end[];
void timer_interrupt();
void wait_for_interrupt();
void guest_start(const guest::StartInfo* info);
void guest_start_ap();
void guest_exception(std::uint64_t vector, std::uint64_t error, std::uint64_t rip,
                     std::uint64_t cr2);

void* memset(void* to, int value, std::size_t size) {
  void* at = to;
  asm volatile("rep stosb" : "+D"(at), "+c"(size) : "a"(value) : "memory");
  return to;
}
void* memcpy(void* to, const void* from, std::size_t size) {
  void* at = to;
  asm volatile("rep movsb" : "+D"(at), "+S"(from), "+c"(size) : : "memory");
  return to;
}
}

namespace guest {

const StartInfo* start_info;

namespace {

constexpr unsigned kTimerVector = 0x20;
constexpr unsigned kSpuriousVector = 0x21;

// Local APIC registers (Intel SDM volume 3, table 11-1).
constexpr unsigned kApicSpurious = 0xf0;
constexpr unsigned kApicCommandLow = 0x300;
constexpr unsigned kApicCommandHigh = 0x310;
constexpr unsigned kApicTimer = 0x320;
constexpr unsigned kApicInitialCount = 0x380;
constexpr unsigned kApicDivide = 0x3e0;

void apic_write(unsigned offset, std::uint32_t value) {
  *reinterpret_cast<volatile std::uint32_t*>(godwit::boot::kLocalApic + offset) = value;
}

struct Gate {
  std::uint16_t offset_low;
  std::uint16_t selector;
  std::uint16_t type;
  std::uint16_t offset_middle;
  std::uint32_t offset_high;
  std::uint32_t reserved;
};
Gate gates[kSpuriousVector + 1];

void set_gate(unsigned vector, std::uint64_t handler) {
  gates[vector] = {static_cast<std::uint16_t>(handler),       0x08, 0x8e00,
                   static_cast<std::uint16_t>(handler >> 16), 0,    0};
}

void load_gates(std::uint16_t limit) {
  struct [[gnu::packed]] {
    std::uint16_t limit;
    std::uint64_t base;
  } pointer = {limit, reinterpret_cast<std::uint64_t>(gates)};
  asm volatile("lidt %0" : : "m"(pointer));
}

void prepare_cpu() {
  // Firmware, where there is any, leaves the timer of the PC going.
  out8(0x21, 0xff);
  out8(0xa1, 0xff);
  load_gates(sizeof gates - 1);
  apic_write(kApicSpurious, 0x100 | kSpuriousVector);
  apic_write(kApicDivide, 0xb);  // by one
  apic_write(kApicTimer, kTimerVector);
}

void (*second_cpu_entry)();
volatile bool second_cpu_runs;

// -- ACPI 6.4, 5.2: fields by offset, since the tables are not aligned
template <typename T>
T field(std::uint64_t table, unsigned offset) {
  T value;
  __builtin_memcpy(&value, reinterpret_cast<const char*>(table + offset), sizeof value);
  return value;
}

constexpr std::uint32_t signature(const char (&name)[5]) {
  std::uint32_t value = 0;
  for (int i = 3; i >= 0; --i) value = value << 8 | static_cast<unsigned char>(name[i]);
  return value;
}

std::uint64_t find_table(const char (&name)[5]) {
  // QEMU, which the benches compare with, gives an RSDT and no XSDT.
  const bool extended = field<std::uint8_t>(start_info->rsdp_paddr, 15) >= 2;
  const std::uint64_t root = extended ? field<std::uint64_t>(start_info->rsdp_paddr, 24)
                                      : field<std::uint32_t>(start_info->rsdp_paddr, 16);
  if (root == 0) {
    print("CORRUPT no XSDT");
    halt();
  }
  const auto length = field<std::uint32_t>(root, 4);
  const unsigned entry = extended ? 8 : 4;
  for (unsigned at = 36; at + entry <= length; at += entry) {
    const std::uint64_t table =
        extended ? field<std::uint64_t>(root, at) : field<std::uint32_t>(root, at);
    if (field<std::uint32_t>(table, 0) == signature(name)) return table;
  }
  print("CORRUPT no ACPI table ", name);
  halt();
}

/// Writes to the register that a Generic Address Structure at `offset` of the FADT names.
void write_fadt_register(unsigned offset, std::uint8_t value) {
  constexpr std::uint8_t kSystemIo = 1;
  const auto fadt = find_table("FACP");
  const auto address = field<std::uint64_t>(fadt, offset + 4);
  if (field<std::uint8_t>(fadt, offset) != kSystemIo || address == 0) {
    print("CORRUPT no I/O port in the FADT at offset ", offset);
    halt();
  }
  out8(static_cast<std::uint16_t>(address), value);
}

/// Calls `visit(apic_id)` for every usable processor of the MADT.
template <typename Visit>
void for_each_cpu(Visit visit) {
  const auto madt = find_table("APIC");
  const auto length = field<std::uint32_t>(madt, 4);
  for (unsigned at = 44; at + 2 <= length;) {
    const auto type = field<std::uint8_t>(madt, at);
    const auto size = field<std::uint8_t>(madt, at + 1);
    if (size < 2) break;
    if (type == 0 && (field<std::uint32_t>(madt, at + 4) & 1) != 0) {
      visit(field<std::uint8_t>(madt, at + 3));
    }
    at += size;
  }
}

std::uint8_t own_apic_id() { return static_cast<std::uint8_t>(cpuid(1).ebx >> 24); }

}  // namespace

void sleep_ns(std::uint64_t ns) {
  constexpr std::uint64_t kMax = 4'000'000'000;  // KVM's local APIC counts nanoseconds
  apic_write(kApicInitialCount, static_cast<std::uint32_t>(ns < kMax ? ns : kMax));
  if (ns != 0) wait_for_interrupt();
}

std::uint64_t parameter(const char* name, std::uint64_t fallback) {
  const char* at = reinterpret_cast<const char*>(start_info->cmdline_paddr);
  if (at == nullptr) return fallback;
  while (*at != 0) {
    const char* n = name;
    while (*n != 0 && *at == *n) ++at, ++n;
    if (*n == 0 && *at == '=') {
      std::uint64_t value = 0;
      for (++at; *at >= '0' && *at <= '9'; ++at) {
        value = value * 10 + static_cast<std::uint64_t>(*at - '0');
      }
      return value;
    }
    while (*at != 0 && *at != ' ') ++at;
    while (*at == ' ') ++at;
  }
  return fallback;
}

void power_off() {
  constexpr unsigned kSleepControl = 244;  // ACPI 6.4, table 5.9
  write_fadt_register(kSleepControl, godwit::boot::kPowerOffValue);
  halt();
}

void reset() {
  constexpr unsigned kResetRegister = 116;
  constexpr unsigned kResetValue = 128;
  write_fadt_register(kResetRegister, field<std::uint8_t>(find_table("FACP"), kResetValue));
  halt();
}

void triple_fault() {
  load_gates(0);
  asm volatile("ud2");
  halt();
}

unsigned cpus_present() {
  unsigned count = 0;
  for_each_cpu([&](std::uint8_t) { ++count; });
  return count;
}

bool start_second_cpu(void (*entry)()) {
  int target = -1;
  for_each_cpu([&](std::uint8_t id) {
    if (id != own_apic_id() && target < 0) target = id;
  });
  if (target < 0) return false;
  second_cpu_entry = entry;
  memcpy(reinterpret_cast<void*>(GUEST_TRAMPOLINE), trampoline_begin,
         static_cast<std::size_t>(trampoline_end - trampoline_begin));
  const auto send = [&](std::uint32_t command) {  // Intel SDM volume 3, 9.4.4
    apic_write(kApicCommandHigh, static_cast<std::uint32_t>(target) << 24);
    apic_write(kApicCommandLow, command);
    sleep_ns(10'000'000);
  };
  send(0xc500);                           // INIT, level, assert
  send(0x4600 | GUEST_TRAMPOLINE >> 12);  // start-up
  for (int i = 0; i < 200 && !second_cpu_runs; ++i) sleep_ns(10'000'000);
  return second_cpu_runs;
}

}  // namespace guest

void guest_start(const guest::StartInfo* info) {
  guest::start_info = info;
  for (unsigned v = 0; v < 32; ++v) {
    guest::set_gate(v, reinterpret_cast<std::uint64_t>(exception_stubs) + v * 16);
  }
  guest::set_gate(guest::kTimerVector, reinterpret_cast<std::uint64_t>(timer_interrupt));
  guest::set_gate(guest::kSpuriousVector, reinterpret_cast<std::uint64_t>(timer_interrupt));
  guest::prepare_cpu();
  if (info->magic != guest::kStartMagic) {
    guest::print("CORRUPT start_info: magic ", guest::Hex{info->magic});
    guest::halt();
  }
  guest::main();
  guest::halt();
}

void guest_start_ap() {
  guest::prepare_cpu();
  guest::second_cpu_runs = true;
  guest::second_cpu_entry();
  guest::halt();
}

void guest_exception(std::uint64_t vector, std::uint64_t error, std::uint64_t rip,
                     std::uint64_t cr2) {
  guest::print("CORRUPT exception ", vector, " error ", error, " rip ", guest::Hex{rip}, " cr2 ",
               guest::Hex{cr2});
  guest::halt();
}
