#include "migration/page_scan.h"

#include <gtest/gtest.h>

namespace godwit::migration {
namespace {

using memory::kPageSize;
using memory::PageRange;

TEST(PageScan, EveryByteOfAPageCounts) {
  memory::GuestMemory memory(2 << 20);
  const auto page = memory.page_bytes({3, 1});
  EXPECT_TRUE(all_zero(page));
  for (const std::size_t at : {0ul, 7ul, 8ul, 63ul, 64ul, 2047ul, 4032ul, 4095ul}) {
    page[at] = std::byte{1};
    EXPECT_FALSE(all_zero(page)) << at;
    page[at] = std::byte{0};
  }
}

TEST(PageScan, SortsPagesIntoMaximalRuns) {
  memory::GuestMemory memory(2 << 20);
  for (const std::uint64_t page : {10, 11, 12, 20})
    memory.page_bytes({page, 1})[100] = std::byte{1};
  const std::vector<PageRange> ranges = {{9, 5}, {20, 1}, {21, 2}};
  const ScannedPages scanned = scan_pages(memory, ranges);
  EXPECT_EQ(scanned.data, (std::vector<PageRange>{{10, 3}, {20, 1}}));
  EXPECT_EQ(scanned.zero, (std::vector<PageRange>{{9, 1}, {13, 1}, {21, 2}}));
}

TEST(PageScan, StraysAreOfBlocksThatLackFew) {
  memory::PageBitmap missing(3 * 512 + 100);
  missing.set({5, 1});
  missing.set({510, 2 + 33});  // the second block lacks 33
  missing.set({2 * 512 + 7, 32});
  missing.set({3 * 512 + 99, 1});
  EXPECT_EQ(strays(missing),
            (std::vector<PageRange>{{5, 1}, {510, 2}, {2 * 512 + 7, 32}, {3 * 512 + 99, 1}}));
  EXPECT_TRUE(strays(memory::PageBitmap(512)).empty());
}

}  // namespace
}  // namespace godwit::migration
