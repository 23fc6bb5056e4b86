#include "migration/pinned_memory.h"

#include <algorithm>

#include "migration/rdma_regions.h"

namespace godwit::migration {

using memory::PageRange;

PinnedMemory::PinnedMemory(memory::GuestMemory& memory) : hold_(memory) {
  for (const RdmaPort& port : active_rdma_ports()) {
    if (std::find(devices_.begin(), devices_.end(), port.device) == devices_.end())
      devices_.push_back(port.device);
  }
  if (devices_.empty()) throw RdmaError("no RDMA device of this host has an active port");
  require_memlock(memory.size() * devices_.size());
  for (const auto& device : devices_) {
    std::vector<MemoryRegion>& regions = regions_.emplace_back();
    for (std::uint64_t at = 0; at < memory.pages(); at += kMaxRegion) {
      const PageRange range{at, std::min(kMaxRegion, memory.pages() - at)};
      regions.push_back(register_memory(*device, memory.page_bytes(range), PeerMay::kNothing));
    }
  }
}

bool PinnedMemory::has(const RdmaDevices& devices) const {
  return std::all_of(devices.begin(), devices.end(), [&](const auto& device) {
    return std::find(devices_.begin(), devices_.end(), device) != devices_.end();
  });
}

std::uint32_t PinnedMemory::local_key(const RdmaDevice& device, std::uint64_t page) const {
  for (std::size_t i = 0; i < devices_.size(); ++i) {
    if (devices_[i].get() == &device) return regions_[i].at(page / kMaxRegion)->lkey;
  }
  throw RdmaError("memory is not pinned for " + device.name);
}

}  // namespace godwit::migration
