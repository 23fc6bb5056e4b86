#include "vmm/devices/pci/config_space.h"

#include <bit>
#include <stdexcept>

namespace godwit::devices {
namespace {

constexpr unsigned kVendor = 0x00, kDevice = 0x02, kCommand = 0x04, kStatus = 0x06,
                   kRevision = 0x08, kCacheLine = 0x0c, kBar0 = 0x10, kSubsystemVendor = 0x2c,
                   kSubsystem = 0x2e, kCapabilities = 0x34, kInterruptLine = 0x3c;
constexpr std::uint32_t kCommandMemory = 0x0002;
// I/O, memory, bus master, parity, SERR, interrupt disable.
constexpr std::uint32_t kCommandWritable = 0x0547;
constexpr std::uint32_t kStatusCapabilities = 0x0010;

}  // namespace

ConfigSpace::ConfigSpace(const PciIdentity& identity) {
  set(kVendor, 2, identity.vendor, 0);
  set(kDevice, 2, identity.device, 0);
  set(kCommand, 2, 0, kCommandWritable);
  set(kRevision, 4, (identity.class_code << 8) | identity.revision, 0);
  set(kCacheLine, 1, 0, 0xff);
  set(kSubsystemVendor, 2, identity.subsystem_vendor, 0);
  set(kSubsystem, 2, identity.subsystem, 0);
  set(kInterruptLine, 1, 0, 0xff);
}

void ConfigSpace::set_bar(std::uint64_t address, std::uint64_t size) {
  if (!std::has_single_bit(size) || size < 16 || address % size != 0 ||
      address > 0x1'0000'0000 - size) {
    throw std::invalid_argument("PCI BAR is misplaced");
  }
  bar_address_ = address;
  bar_size_ = size;
  // The low bits read as zero, whatever is written: that is how the guest learns the size.
  set(kBar0, 4, static_cast<std::uint32_t>(address), static_cast<std::uint32_t>(~(size - 1)));
  set(kCommand, 2, kCommandMemory, kCommandWritable);
}

std::uint8_t ConfigSpace::add_capability(std::uint8_t id, std::span<const std::uint8_t> body,
                                         std::span<const std::uint8_t> writable) {
  const unsigned offset = next_free_;
  if (offset + 2 + body.size() > kSize)
    throw std::invalid_argument("PCI capabilities are too long");
  set(offset, 1, id, 0);
  for (unsigned i = 0; i < body.size(); ++i) {
    set(offset + 2 + i, 1, body[i], i < writable.size() ? writable[i] : 0);
  }
  if (last_capability_ == 0) {
    set(kStatus, 2, kStatusCapabilities, 0);
    set(kCapabilities, 1, offset, 0);
  } else {
    set(last_capability_ + 1, 1, offset, 0);
  }
  last_capability_ = offset;
  next_free_ = (offset + 2 + static_cast<unsigned>(body.size()) + 3) & ~3U;
  return static_cast<std::uint8_t>(offset);
}

std::uint32_t ConfigSpace::read(unsigned offset, unsigned size) const {
  if (offset > kSize || size > 4 || size > kSize - offset) return ~0U;
  std::uint32_t value = 0;
  for (unsigned i = 0; i < size; ++i) {
    value |= std::uint32_t{bytes_[offset + i]} << (8 * i);
  }
  return value;
}

void ConfigSpace::write(unsigned offset, unsigned size, std::uint32_t value) {
  if (offset > kSize || size > 4 || size > kSize - offset) return;
  for (unsigned i = 0; i < size; ++i) {
    const std::uint8_t mask = writable_[offset + i];
    const auto byte = static_cast<std::uint8_t>(value >> (8 * i));
    bytes_[offset + i] = static_cast<std::uint8_t>((bytes_[offset + i] & ~mask) | (byte & mask));
  }
}

bool ConfigSpace::decodes() const {
  return bar_size_ != 0 && (read(kCommand, 2) & kCommandMemory) != 0 &&
         read(kBar0, 4) == bar_address_;
}

void ConfigSpace::save(vmm::StateWriter& writer) const { writer.put(bytes_); }

void ConfigSpace::restore(vmm::StateReader& reader) {
  const auto bytes = reader.get<decltype(bytes_)>();
  for (unsigned i = 0; i < kSize; ++i) {
    if (((bytes[i] ^ bytes_[i]) & ~writable_[i]) != 0) {
      reader.fail("is of a different PCI function");
    }
  }
  bytes_ = bytes;
}

void ConfigSpace::set(unsigned offset, unsigned size, std::uint32_t value, std::uint32_t writable) {
  for (unsigned i = 0; i < size; ++i) {
    bytes_[offset + i] = static_cast<std::uint8_t>(value >> (8 * i));
    writable_[offset + i] = static_cast<std::uint8_t>(writable >> (8 * i));
  }
}

}  // namespace godwit::devices
