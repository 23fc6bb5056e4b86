#include "vmm/devices/bus.h"

#include <iterator>
#include <stdexcept>

#include "vmm/devices/access.h"

namespace godwit::devices {

void Bus::attach(std::uint64_t base, std::uint64_t size, Device& device) {
  if (size == 0) throw std::invalid_argument("bus range is empty");
  const std::uint64_t last = base + (size - 1);
  if (last < base) throw std::invalid_argument("bus range wraps");
  const auto next = ranges_.lower_bound(base);
  if (next != ranges_.end() && next->first <= last) {
    throw std::invalid_argument("bus range overlaps another");
  }
  if (next != ranges_.begin()) {
    const auto& [before, range] = *std::prev(next);
    if (base - before < range.size) throw std::invalid_argument("bus range overlaps another");
  }
  ranges_.emplace_hint(next, base, Range{size, &device});
}

void Bus::read(std::uint64_t address, std::span<std::byte> data) const {
  if (const auto* found = find(address, data.size())) {
    found->second.device->read(address - found->first, data);
  } else {
    fill_ones(data);
  }
}

void Bus::write(std::uint64_t address, std::span<const std::byte> data) const {
  if (const auto* found = find(address, data.size())) {
    found->second.device->write(address - found->first, data);
  }
}

const std::pair<const std::uint64_t, Bus::Range>* Bus::find(std::uint64_t address,
                                                            std::size_t size) const {
  const auto next = ranges_.upper_bound(address);
  if (next == ranges_.begin()) return nullptr;
  const auto& entry = *std::prev(next);
  const std::uint64_t offset = address - entry.first;
  if (offset >= entry.second.size || size > entry.second.size - offset) return nullptr;
  return &entry;
}

}  // namespace godwit::devices
