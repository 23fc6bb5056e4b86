#include "migration/rdma_regions.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>

#include "vmm/memory/page_bitmap.h"

namespace godwit::migration {
namespace {

using memory::PageBitmap;
using memory::PageRange;

constexpr std::uint64_t kBlock = 512;  // pages of 2 MiB

PageBitmap bitmap(const std::vector<PageRange>& ranges, std::uint64_t pages) {
  PageBitmap all(pages);
  for (const PageRange& range : ranges) all.set(range);
  return all;
}

TEST(PlanRegions, NothingIsRegisteredForNothing) { EXPECT_TRUE(plan_regions({}, 4096).empty()); }

TEST(PlanRegions, FewPagesOfABlockAreRegisteredAloneSmallGapsWithThem) {
  const std::vector<PageRange> ranges = {{3, 2}, {10, 1}, {200, 4}};
  EXPECT_EQ(plan_regions(ranges, 4096), (std::vector<PageRange>{{3, 8}, {200, 4}}));
}

TEST(PlanRegions, AQuarterOfABlockBringsAllOfIt) {
  const std::vector<PageRange> ranges = {{kBlock + 100, kBlock / 4}};
  EXPECT_EQ(plan_regions(ranges, 4096), (std::vector<PageRange>{{kBlock, kBlock}}));
}

TEST(PlanRegions, TheLastBlockOfRamEndsWithRam) {
  const std::vector<PageRange> ranges = {{kBlock, 200}};
  EXPECT_EQ(plan_regions(ranges, kBlock + 300), (std::vector<PageRange>{{kBlock, 300}}));
}

TEST(PlanRegions, TheFirstAreSmallAndTheRestAsLargeAsTheyMayBe) {
  constexpr std::uint64_t kPages = 3 * kMaxRegion;
  const PageRange all{0, kPages};
  const auto regions = plan_regions({&all, 1}, kPages);
  EXPECT_EQ(regions[0].bytes(), 2u << 20);
  EXPECT_EQ(regions[1].bytes(), 4u << 20);
  EXPECT_EQ(std::max_element(regions.begin(), regions.end(),
                             [](auto& a, auto& b) { return a.count < b.count; })
                ->bytes(),
            64u << 20);
}

// Whatever is asked for.
TEST(PlanRegions, CoverAllThatIsAskedForInOrderWithoutOverlapAndInsideOfRam) {
  std::mt19937_64 random(1);
  for (int i = 0; i < 300; ++i) {
    const std::uint64_t pages = 1 + random() % (2 * kMaxRegion);
    PageBitmap wanted(pages);
    for (std::uint64_t n = random() % 200; n > 0; --n) {
      const std::uint64_t first = random() % pages;
      wanted.set({first, std::min(1 + random() % (1 + random() % 3000), pages - first)});
    }
    const auto regions = plan_regions(wanted.ranges(), pages);
    std::uint64_t end = 0;
    for (const PageRange& region : regions) {
      ASSERT_GT(region.count, 0u);
      ASSERT_GE(region.first, end);
      ASSERT_LE(region.end(), pages);
      ASSERT_EQ(region.first / kMaxRegion, (region.end() - 1) / kMaxRegion);
      end = region.end();
    }
    PageBitmap covered = bitmap(regions, pages);
    const std::uint64_t count = covered.count();
    covered |= wanted;
    ASSERT_EQ(covered.count(), count) << "something is not covered";
    ASSERT_LE(count, 4 * wanted.count() + 16 * wanted.ranges().size());
  }
}

}  // namespace
}  // namespace godwit::migration
