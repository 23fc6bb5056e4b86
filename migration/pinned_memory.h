// All of guest RAM, registered with every RDMA device that has an active port, for as long as this
// exists: a move of this guest then registers nothing at the source. It costs the host all of the
// guest's RAM, touched or not, and the guest's balloon gives nothing back. No peer may reach it.
#pragma once

#include <cstdint>
#include <vector>

#include "migration/rdma_port.h"
#include "vmm/memory/guest_memory.h"

namespace godwit::migration {

class PinnedMemory {
 public:
  /// Blocks while memory is populated. `memory` must outlive it. Throws RdmaError.
  explicit PinnedMemory(memory::GuestMemory& memory);

  const RdmaDevices& devices() const { return devices_; }
  /// Whether memory is registered with all of these.
  bool has(const RdmaDevices& devices) const;
  /// Of the region that holds this page; it holds all pages up to the next multiple of kMaxRegion.
  std::uint32_t local_key(const RdmaDevice& device, std::uint64_t page) const;

 private:
  const memory::GuestMemory::Hold hold_;
  RdmaDevices devices_;
  std::vector<std::vector<MemoryRegion>> regions_;  // by device, by kMaxRegion
};

}  // namespace godwit::migration
