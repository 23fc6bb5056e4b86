#include "migration/page_scan.h"

#include <algorithm>
#include <cstdint>
#include <cstring>

namespace godwit::migration {

using memory::PageRange;

bool all_zero(std::span<const std::byte> bytes) {
  // A guest page that is not zero mostly says so in its first words.
  std::uint64_t first = 0;
  std::memcpy(&first, bytes.data(), sizeof first);
  if (first != 0) return false;
  using Block = std::uint64_t __attribute__((vector_size(64)));
  for (std::size_t at = 0; at < bytes.size(); at += sizeof(Block)) {
    Block block;
    std::memcpy(&block, bytes.data() + at, sizeof block);
    std::uint64_t any = 0;
    for (int i = 0; i < 8; ++i) any |= block[i];
    if (any != 0) return false;
  }
  return true;
}

namespace {

constexpr std::uint64_t kFew = 32;  // pages that a block lacks

void append(std::vector<PageRange>& runs, std::uint64_t page) {
  if (!runs.empty() && runs.back().end() == page) {
    ++runs.back().count;
  } else {
    runs.push_back({page, 1});
  }
}

}  // namespace

ScannedPages scan_pages(const memory::GuestMemory& memory, std::span<const PageRange> ranges) {
  ScannedPages result;
  for (const PageRange& range : ranges) {
    const std::span<const std::byte> bytes = memory.page_bytes(range);
    for (std::uint64_t i = 0; i < range.count; ++i) {
      const bool zero = all_zero(bytes.subspan(i * memory::kPageSize, memory::kPageSize));
      append(zero ? result.zero : result.data, range.first + i);
    }
  }
  return result;
}

std::vector<PageRange> strays(const memory::PageBitmap& missing) {
  std::vector<PageRange> found;
  for (std::uint64_t at = 0; at < missing.pages(); at += memory::kHugePagePages) {
    const PageRange block{at, std::min(memory::kHugePagePages, missing.pages() - at)};
    if (missing.count(block) > kFew) continue;
    for (const PageRange& range : missing.ranges(block)) found.push_back(range);
  }
  return found;
}

}  // namespace godwit::migration
