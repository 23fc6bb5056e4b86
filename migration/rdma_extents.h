// The pieces of guest RAM that are registered with RDMA devices, or about to be, by where they lie.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <utility>
#include <vector>

#include "migration/protocol.h"
#include "migration/verbs.h"
#include "vmm/memory/page_range.h"

namespace godwit::migration {

struct RdmaExtent {
  memory::PageRange range;
  std::vector<MemoryRegion> regions;  // one a device; empty until registered, or pinned
  std::vector<RemoteExtent> remote;   // one a port; empty until the peer has answered
};

class RdmaExtents {
 public:
  /// The one that holds this page, or null.
  const RdmaExtent* find(std::uint64_t page) const;
  RdmaExtent* find(std::uint64_t page) {
    return const_cast<RdmaExtent*>(std::as_const(*this).find(page));
  }
  /// `range` must not overlap another.
  RdmaExtent& add(const memory::PageRange& range, std::vector<MemoryRegion> regions = {});
  bool overlaps(const memory::PageRange& range) const;
  /// `ranges` without what belongs to an extent.
  std::vector<memory::PageRange> uncovered(std::span<const memory::PageRange> ranges) const;
  void clear() { extents_.clear(); }

  auto begin() { return extents_.begin(); }
  auto end() { return extents_.end(); }

 private:
  std::map<std::uint64_t, RdmaExtent> extents_;  // by first page
};

}  // namespace godwit::migration
