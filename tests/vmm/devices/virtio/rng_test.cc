#include "vmm/devices/virtio/rng.h"

#include <set>

#include "tests/vmm/devices/virtio/plain_driver.h"

namespace godwit::devices {
namespace {

constexpr std::uint64_t kData = 4 << 20;

class VirtioRngTest : public testing::Test {
 protected:
  std::set<std::uint64_t> words(std::uint64_t address, std::size_t count) {
    std::set<std::uint64_t> found;
    for (std::size_t i = 0; i < count; ++i) {
      found.insert(*wiring_.memory.load<std::uint64_t>(address + 8 * i));
    }
    return found;
  }

  PlainWiring wiring_;
  VirtioRng rng_;
  VirtioPci device_{rng_, wiring_.memory, wiring_.vectors, wiring_.doorbells, PlainWiring::kBar};
  PlainDriver driver_{device_, wiring_.memory, rng_.queue_sizes()};
};

TEST_F(VirtioRngTest, FillsWhatItIsGivenWithEverDifferentBytes) {
  EXPECT_EQ(device_.read_config(2, 2), 0x1044u);
  ASSERT_EQ(driver_.bring_up(), 15);
  EXPECT_EQ(driver_.ask(0, {{kData, 64, true}}), 64u);
  auto seen = words(kData, 8);
  EXPECT_EQ(seen.size(), 8u);
  EXPECT_EQ(driver_.ask(0, {{kData, 30, true}, {kData + 4096, 34, true}}), 64u);
  seen.merge(words(kData, 3));
  EXPECT_EQ(seen.size(), 11u);
  EXPECT_GT(wiring_.vectors.fired(0), 0);
}

TEST_F(VirtioRngTest, OneRequestGetsNoMoreThanItsShare) {
  ASSERT_EQ(driver_.bring_up(), 15);
  EXPECT_EQ(driver_.ask(0, {{kData, 1 << 20, true}}), VirtioRng::kMaxAnswer);
  EXPECT_EQ(words(kData + VirtioRng::kMaxAnswer, 8), std::set<std::uint64_t>{0});
}

TEST_F(VirtioRngTest, WhatItWritesIsMarkedDirty) {
  ASSERT_EQ(driver_.bring_up(), 15);
  wiring_.memory.track_writes(true);
  ASSERT_EQ(driver_.ask(0, {{kData, 16, true}}), 16u);
  memory::PageBitmap pages(wiring_.memory.pages());
  wiring_.memory.collect_writes(pages);
  EXPECT_TRUE(pages.test(kData / 4096));
}

TEST_F(VirtioRngTest, AChainToReadBreaksItUntilItIsReset) {
  ASSERT_EQ(driver_.bring_up(), 15);
  driver_.offer(0, {{kData, 16}});
  EXPECT_TRUE(driver_.breaks());
  ASSERT_EQ(driver_.bring_up(), 15);
  EXPECT_EQ(driver_.ask(0, {{kData, 16, true}}), 16u);
}

TEST_F(VirtioRngTest, ARequestMadeWhileItIsQuiescedIsAnsweredAtTheOtherEndOfAMove) {
  ASSERT_EQ(driver_.bring_up(), 15);
  device_.quiesce();
  driver_.offer(0, {{kData, 16, true}});
  PlainWiring there;
  VirtioRng rng;
  VirtioPci device(rng, there.memory, there.vectors, there.doorbells, PlainWiring::kBar);
  move_plain(there, device, wiring_, device_);
  EXPECT_TRUE(eventually([&] { return *there.memory.load<std::uint64_t>(kData) != 0; }));
  EXPECT_EQ(driver_.rings[0].used_index(), 0);
}

}  // namespace
}  // namespace godwit::devices
