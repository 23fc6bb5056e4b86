#include "migration/rdma_extents.h"

#include <algorithm>
#include <utility>

namespace godwit::migration {

using memory::PageRange;

const RdmaExtent* RdmaExtents::find(std::uint64_t page) const {
  auto next = extents_.upper_bound(page);
  if (next == extents_.begin()) return nullptr;
  const RdmaExtent& extent = std::prev(next)->second;
  return page < extent.range.end() ? &extent : nullptr;
}

RdmaExtent& RdmaExtents::add(const PageRange& range, std::vector<MemoryRegion> regions) {
  return extents_.emplace(range.first, RdmaExtent{range, std::move(regions), {}}).first->second;
}

bool RdmaExtents::overlaps(const PageRange& range) const {
  const auto next = extents_.lower_bound(range.first);
  return find(range.first) != nullptr || (next != extents_.end() && next->first < range.end());
}

std::vector<PageRange> RdmaExtents::uncovered(std::span<const PageRange> ranges) const {
  std::vector<PageRange> missing;
  for (PageRange rest : ranges) {
    while (rest.count > 0) {
      if (const RdmaExtent* extent = find(rest.first)) {
        const std::uint64_t covered = std::min(rest.count, extent->range.end() - rest.first);
        rest = {rest.first + covered, rest.count - covered};
        continue;
      }
      const auto next = extents_.upper_bound(rest.first);
      const std::uint64_t room = next == extents_.end() ? rest.count : next->first - rest.first;
      missing.push_back({rest.first, std::min(rest.count, room)});
      rest = {missing.back().end(), rest.count - missing.back().count};
    }
  }
  return missing;
}

}  // namespace godwit::migration
