#include "vmm/devices/pci/msix.h"

#include <stdexcept>
#include <system_error>
#include <type_traits>

#include "vmm/devices/access.h"

namespace godwit::devices {
namespace {

constexpr std::uint32_t kMasked = 1;

bool access_is_sound(std::uint64_t offset, std::size_t size) {
  return (size == 4 || size == 8) && offset % size == 0;
}

}  // namespace

Msix::Msix(unsigned vectors, MsiVectorFactory& factory) : entries_(vectors), routed_(vectors) {
  if (vectors == 0 || vectors > kMaxVectors) throw std::invalid_argument("MSI-X vector count");
  for (unsigned i = 0; i < vectors; ++i) lines_.push_back(factory.create());
}

void Msix::read_table(std::uint64_t offset, std::span<std::byte> data) const {
  static_assert(sizeof(Entry) == kEntrySize && std::has_unique_object_representations_v<Entry>);
  fill_ones(data);
  const std::lock_guard lock(mutex_);
  if (!access_is_sound(offset, data.size()) || offset >= entries_.size() * kEntrySize) return;
  read_window(std::as_bytes(std::span(entries_)), offset, data);
}

void Msix::write_table(std::uint64_t offset, std::span<const std::byte> data) {
  const std::lock_guard lock(mutex_);
  if (!access_is_sound(offset, data.size()) || offset >= entries_.size() * kEntrySize) return;
  const std::uint64_t value = load_le(data);
  write_dword(offset, static_cast<std::uint32_t>(value));
  if (data.size() == 8) write_dword(offset + 4, static_cast<std::uint32_t>(value >> 32));
  update(static_cast<unsigned>(offset / kEntrySize));
}

void Msix::write_dword(std::uint64_t offset, std::uint32_t value) {
  Entry& entry = entries_[offset / kEntrySize];
  switch (offset % kEntrySize) {
    case 0:
      entry.address_low = value & ~3U;
      break;
    case 4:
      entry.address_high = value;
      break;
    case 8:
      entry.data = value;
      break;
    default:
      entry.control = value & kMasked;
  }
}

void Msix::read_pending(std::uint64_t offset, std::span<std::byte> data) const {
  fill_ones(data);
  const std::lock_guard lock(mutex_);
  if (!access_is_sound(offset, data.size()) || offset >= sizeof pending_) return;
  read_window(std::as_bytes(std::span(&pending_, 1)), offset, data);
}

void Msix::set_control(std::uint16_t control) {
  const std::lock_guard lock(mutex_);
  enabled_ = (control & kControlEnable) != 0;
  mask_all_ = (control & kControlMaskAll) != 0;
  for (unsigned i = 0; i < vectors(); ++i) update(i);
}

void Msix::trigger(unsigned vector) {
  const std::lock_guard lock(mutex_);
  if (!enabled_ || vector >= vectors()) return;
  pending_ |= std::uint64_t{1} << vector;
  update(vector);
}

bool Msix::masked(unsigned vector) const {
  return mask_all_ || (entries_[vector].control & kMasked) != 0;
}

void Msix::route(unsigned vector) {
  const Entry& entry = entries_[vector];
  const MsiMessage message = {(std::uint64_t{entry.address_high} << 32) | entry.address_low,
                              entry.data};
  if (routed_[vector] == message) return;
  lines_[vector]->route(message);
  routed_[vector] = message;
}

// After any change: keeps the route of an unmasked vector current and sends what waited for it.
void Msix::update(unsigned vector) {
  if (!enabled_ || masked(vector)) return;
  const std::uint64_t bit = std::uint64_t{1} << vector;
  try {
    route(vector);
    if ((pending_ & bit) == 0) return;
    lines_[vector]->trigger();
    pending_ &= ~bit;
  } catch (const std::system_error&) {
    // The host has no route left, or the guest's message goes nowhere: the vector stays pending.
  }
}

void Msix::save(vmm::StateWriter& writer) const {
  const std::lock_guard lock(mutex_);
  writer.put_array(std::span<const Entry>(entries_));
  writer.put(pending_);
}

void Msix::restore(vmm::StateReader& reader) {
  const std::lock_guard lock(mutex_);
  const auto entries = reader.get_array<Entry>(entries_.size());
  const auto pending = reader.get<std::uint64_t>();
  if (entries.size() != entries_.size()) reader.fail("has another number of MSI-X vectors");
  if (vectors() < 64 && (pending >> vectors()) != 0) reader.fail("pending vector does not exist");
  for (const Entry& entry : entries) {
    if ((entry.address_low & 3) != 0 || (entry.control & ~kMasked) != 0) {
      reader.fail("impossible MSI-X entry");
    }
  }
  entries_ = entries;
  pending_ = pending;
  for (unsigned i = 0; i < vectors(); ++i) {
    if (enabled_ && !masked(i)) route(i);
  }
}

}  // namespace godwit::devices
