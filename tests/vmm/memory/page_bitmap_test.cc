#include "vmm/memory/page_bitmap.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <stdexcept>

namespace godwit::memory {
namespace {

using Ranges = std::vector<PageRange>;

TEST(PageBitmap, StartsEmpty) {
  const PageBitmap bitmap(1000);
  EXPECT_EQ(bitmap.pages(), 1000u);
  EXPECT_EQ(bitmap.words().size(), 16u);
  EXPECT_EQ(bitmap.count(), 0u);
  EXPECT_EQ(bitmap.ranges(), Ranges{});
}

TEST(PageBitmap, FindsMaximalRunsAcrossWords) {
  PageBitmap bitmap(200);
  bitmap.set({60, 70});
  bitmap.set({199, 1});
  EXPECT_EQ(bitmap.count(), 71u);
  EXPECT_EQ(bitmap.ranges(), (Ranges{{60, 70}, {199, 1}}));
  EXPECT_EQ(bitmap.ranges({0, 200}, 32), (Ranges{{60, 32}, {92, 32}, {124, 6}, {199, 1}}));
  EXPECT_EQ(bitmap.ranges({64, 64}), (Ranges{{64, 64}}));
}

TEST(PageBitmap, ResetsOnlyTheRange) {
  PageBitmap bitmap(256);
  bitmap.set({0, 256});
  bitmap.reset({63, 66});
  EXPECT_EQ(bitmap.ranges(), (Ranges{{0, 63}, {129, 127}}));
}

TEST(PageBitmap, RefusesPagesOutside) {
  PageBitmap bitmap(100);
  EXPECT_THROW(bitmap.set({99, 2}), std::out_of_range);
  EXPECT_THROW(bitmap.reset({UINT64_MAX, 2}), std::out_of_range);
  EXPECT_THROW(bitmap.set({1, UINT64_MAX}), std::out_of_range);
  EXPECT_THROW((void)bitmap.test(100), std::out_of_range);
  EXPECT_THROW((void)bitmap.ranges({0, 101}), std::out_of_range);
  EXPECT_THROW(bitmap |= PageBitmap(101), std::invalid_argument);
  bitmap.set({100, 0});
  EXPECT_EQ(bitmap.count(), 0u);
}

TEST(PageBitmap, AgreesWithOneBitAtATime) {
  std::mt19937 random(1);
  for (int round = 0; round < 200; ++round) {
    const std::uint64_t pages = 1 + random() % 300;
    PageBitmap bitmap(pages);
    std::vector<bool> model(pages);
    for (int step = 0; step < 10; ++step) {
      const std::uint64_t first = random() % pages;
      const PageRange range{first, random() % (pages - first + 1)};
      const bool value = random() % 2 == 0;
      if (value) {
        bitmap.set(range);
      } else {
        bitmap.reset(range);
      }
      for (std::uint64_t p = range.first; p < range.end(); ++p) model[p] = value;
    }
    std::vector<bool> seen(pages);
    for (const PageRange run : bitmap.ranges()) {
      for (std::uint64_t p = run.first; p < run.end(); ++p) seen[p] = true;
    }
    ASSERT_EQ(seen, model);
    const std::uint64_t first = random() % pages;
    const PageRange within{first, random() % (pages - first + 1)};
    const auto begin = model.begin() + static_cast<std::ptrdiff_t>(within.first);
    ASSERT_EQ(bitmap.count(within),
              std::count(begin, begin + static_cast<std::ptrdiff_t>(within.count), true));
  }
}

}  // namespace
}  // namespace godwit::memory
