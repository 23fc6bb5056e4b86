#include "vmm/devices/pci/host_bridge.h"

#include <stdexcept>
#include <string>

#include "vmm/devices/access.h"

namespace godwit::devices {
namespace {

constexpr std::uint32_t kStateVersion = 1;
constexpr std::uint32_t kEnable = 0x8000'0000;
constexpr std::uint32_t kAddressBits = 0x80ff'fffc;  // bits 30-24 and 1-0 are reserved, zero
constexpr std::uint64_t kAddressPort = 0, kDataPort = 4;

// A generic host bridge for which Linux has no quirks.
constexpr PciIdentity kIdentity = {.vendor = 0x1b36,
                                   .device = 0x0008,
                                   .subsystem_vendor = 0x1af4,
                                   .subsystem = 0x1100,
                                   .class_code = 0x060000,
                                   .revision = 0};

}  // namespace

PciHostBridge::Self::Self() : config(kIdentity) {}

std::uint32_t PciHostBridge::Self::read_config(unsigned offset, unsigned size) {
  return config.read(offset, size);
}

void PciHostBridge::Self::write_config(unsigned offset, unsigned size, std::uint32_t value) {
  config.write(offset, size, value);
}

PciHostBridge::PciHostBridge() { functions_[0] = &self_; }

void PciHostBridge::plug(unsigned slot, PciFunction& function) {
  if (slot == 0 || slot >= kSlots || functions_[slot] != nullptr) {
    throw std::invalid_argument("PCI slot " + std::to_string(slot) + " is not free");
  }
  functions_[slot] = &function;
}

void PciHostBridge::read(std::uint64_t offset, std::span<std::byte> data) {
  fill_ones(data);
  const std::lock_guard lock(mutex_);
  if (offset == kAddressPort && data.size() == 4) {
    store_le(data, address_);
  } else if (offset >= kDataPort && offset + data.size() <= kPorts && data.size() != 3) {
    const auto size = static_cast<unsigned>(data.size());
    const auto byte = static_cast<unsigned>(offset - kDataPort);
    if (byte % size != 0) return;
    if (auto* function = selected()) {
      store_le(data, function->read_config(selected_offset() + byte, size));
    }
  }
}

void PciHostBridge::write(std::uint64_t offset, std::span<const std::byte> data) {
  const std::lock_guard lock(mutex_);
  const auto value = static_cast<std::uint32_t>(load_le(data));
  if (offset == kAddressPort && data.size() == 4) {
    address_ = value & kAddressBits;
  } else if (offset >= kDataPort && offset + data.size() <= kPorts && data.size() != 3) {
    const auto size = static_cast<unsigned>(data.size());
    const auto byte = static_cast<unsigned>(offset - kDataPort);
    if (byte % size != 0) return;
    if (auto* function = selected()) function->write_config(selected_offset() + byte, size, value);
  }
}

PciFunction* PciHostBridge::selected() const {
  const unsigned bus = (address_ >> 16) & 0xff;
  const unsigned slot = (address_ >> 11) & 0x1f;
  const unsigned function = (address_ >> 8) & 0x07;
  if ((address_ & kEnable) == 0 || bus != 0 || function != 0) return nullptr;
  return functions_[slot];
}

void PciHostBridge::save(vmm::StateWriter& writer, std::uint32_t instance) const {
  const std::lock_guard lock(mutex_);
  writer.begin(kind(), kStateVersion, instance);
  writer.put(address_);
  self_.config.save(writer);
}

void PciHostBridge::restore(vmm::StateReader& reader, std::uint32_t instance) {
  const std::lock_guard lock(mutex_);
  reader.begin(kind(), kStateVersion, instance);
  const auto address = reader.get<std::uint32_t>();
  if ((address & ~kAddressBits) != 0) reader.fail("impossible configuration address");
  self_.config.restore(reader);
  address_ = address;
}

}  // namespace godwit::devices
