// The balloon: pages that the guest gives become holes, unless memory is held; what is held back is
// punched later, also after a move; statistics; and what bad drivers do.
#include "vmm/devices/virtio/balloon.h"

#include <numeric>
#include <random>

#include "tests/vmm/devices/virtio/plain_driver.h"

namespace godwit::devices {
namespace {

constexpr unsigned kInflate = 0, kDeflate = 1, kStatistics = 2, kReport = 3;
constexpr std::uint64_t kFrames = 2 << 20, kData = 4 << 20;
constexpr std::uint32_t kFirst = kData / 4096;
constexpr std::uint64_t kPage = 4096;

struct BalloonMachine : PlainWiring {
  VirtioBalloon balloon{memory};
  VirtioPci device{balloon, memory, vectors, doorbells, kBar};
  PlainDriver driver{device, memory, balloon.queue_sizes()};

  void fill(std::uint64_t address, std::uint64_t size) {
    const std::vector<std::byte> bytes(size, std::byte{'x'});
    memory.write(address, bytes);
  }
  std::uint64_t populated(std::uint64_t address, std::uint64_t size) {
    std::uint64_t pages = 0;
    for (const auto& range : memory.populated({address / kPage, size / kPage}))
      pages += range.count;
    return pages;
  }
  /// Offers frames first, first + 1, ...
  bool give(unsigned queue, std::uint32_t first, std::uint32_t count) {
    std::vector<std::uint32_t> frames(count);
    std::iota(frames.rbegin(), frames.rend(), first);  // downwards, as Linux finds them
    driver.store(kFrames, std::as_bytes(std::span(frames)));
    return driver.ask(queue, {{kFrames, 4 * count}}).has_value();
  }
};

class VirtioBalloonTest : public testing::Test {
 protected:
  BalloonMachine machine_;
  PlainDriver& driver_ = machine_.driver;
};

TEST_F(VirtioBalloonTest, TheTargetReachesTheDriverAndItsAnswerComesBack) {
  EXPECT_EQ(machine_.device.read_config(2, 2), 0x1045u);
  ASSERT_EQ(driver_.bring_up(), 15);
  const int before = machine_.vectors.fired(5);
  machine_.balloon.set_target(1000);
  EXPECT_TRUE(eventually([&] { return machine_.vectors.fired(5) > before; }));
  EXPECT_EQ(driver_.config<std::uint32_t>(0), 1000u);
  write_as<std::uint32_t>(machine_.device, driver_.registers.config + 4, 998);
  EXPECT_EQ(machine_.balloon.actual(), 998u);
  write_as<std::uint32_t>(machine_.device, driver_.registers.config, 7);  // not the driver's
  EXPECT_EQ(driver_.config<std::uint32_t>(0), 1000u);
}

TEST_F(VirtioBalloonTest, InflatedPagesBecomeHoles) {
  ASSERT_EQ(driver_.bring_up(), 15);
  machine_.fill(kData, 64 * kPage);
  ASSERT_TRUE(machine_.give(kInflate, kFirst + 8, 16));
  EXPECT_EQ(machine_.populated(kData, 64 * kPage), 48u);
  EXPECT_EQ(*machine_.memory.load<char>(kData + 8 * kPage), '\0');
  EXPECT_EQ(*machine_.memory.load<char>(kData + 24 * kPage), 'x');
  ASSERT_TRUE(machine_.give(kDeflate, kFirst + 8, 16));
}

TEST_F(VirtioBalloonTest, ReportedPagesBecomeHolesAndAreNotMarkedDirty) {
  ASSERT_EQ(driver_.bring_up(), 15);
  machine_.fill(kData, 64 * kPage);
  machine_.memory.track_writes(true);
  // The last one covers no page whole.
  ASSERT_TRUE(driver_.ask(kReport, {{kData, 16 * kPage, true},
                                    {kData + 32 * kPage, 8 * kPage, true},
                                    {kData + 50 * kPage + 8, kPage, true}}));
  EXPECT_EQ(machine_.populated(kData, 64 * kPage), 40u);
  EXPECT_EQ(machine_.balloon.reported_bytes(), 24 * kPage);
  memory::PageBitmap pages(machine_.memory.pages());
  machine_.memory.collect_writes(pages);
  EXPECT_TRUE(pages.ranges({kData / kPage, 64}).empty());
}

TEST_F(VirtioBalloonTest, ReportsComeOnTheQueueThatTheSpecificationNamesAsWell) {
  ASSERT_EQ(driver_.bring_up(), 15);
  machine_.fill(kData, 4 * kPage);
  ASSERT_TRUE(driver_.ask(4, {{kData, 4 * kPage, true}}));
  EXPECT_EQ(machine_.populated(kData, 4 * kPage), 0u);
}

TEST_F(VirtioBalloonTest, WhileMemoryIsHeldReportsAreForgotten) {
  ASSERT_EQ(driver_.bring_up(), 15);
  machine_.fill(kData, 16 * kPage);
  {
    const memory::GuestMemory::Hold hold(machine_.memory);
    ASSERT_TRUE(driver_.ask(kReport, {{kData, 8 * kPage, true}}));
    EXPECT_EQ(machine_.populated(kData, 16 * kPage), 16u);
  }
  std::this_thread::sleep_for(std::chrono::milliseconds(700));
  EXPECT_EQ(machine_.populated(kData, 16 * kPage), 16u) << "the guest may use them again";
  ASSERT_TRUE(driver_.ask(kReport, {{kData, 8 * kPage, true}}));
  EXPECT_EQ(machine_.populated(kData, 16 * kPage), 8u);
}

TEST_F(VirtioBalloonTest, WhileMemoryIsHeldTheBalloonsPagesWait) {
  ASSERT_EQ(driver_.bring_up(), 15);
  machine_.fill(kData, 32 * kPage);
  {
    const memory::GuestMemory::Hold hold(machine_.memory);
    ASSERT_TRUE(machine_.give(kInflate, kFirst, 32));
    ASSERT_TRUE(machine_.give(kDeflate, kFirst + 8, 4));  // and used again
    EXPECT_EQ(machine_.populated(kData, 32 * kPage), 32u);
  }
  EXPECT_TRUE(eventually([&] { return machine_.populated(kData, 32 * kPage) == 4; }));
  EXPECT_EQ(*machine_.memory.load<char>(kData + 8 * kPage), 'x');
  EXPECT_EQ(*machine_.memory.load<char>(kData + 11 * kPage), 'x');
}

TEST_F(VirtioBalloonTest, WhatWaitedIsGivenBackWhereTheGuestWent) {
  ASSERT_EQ(driver_.bring_up(), 15);
  machine_.fill(kData, 32 * kPage);
  const memory::GuestMemory::Hold hold(machine_.memory);
  machine_.balloon.set_target(32);
  ASSERT_TRUE(machine_.give(kInflate, kFirst, 32));
  BalloonMachine there;
  move_plain(there, there.device, machine_, machine_.device);
  EXPECT_TRUE(eventually([&] { return there.populated(kData, 32 * kPage) == 0; }));
  EXPECT_EQ(machine_.populated(kData, 32 * kPage), 32u);
  EXPECT_EQ(there.balloon.target(), 32u);
}

TEST_F(VirtioBalloonTest, StatisticsAreAskedForByGivingTheBufferBack) {
  ASSERT_EQ(driver_.bring_up(), 15);
  const auto tell = [&](std::uint64_t free) {
    machine_.memory.store(kFrames, std::uint16_t{4});
    machine_.memory.store(kFrames + 2, free);
    machine_.memory.store(kFrames + 10, std::uint16_t{999});  // a tag of the future
    machine_.memory.store(kFrames + 12, std::uint64_t{1});
    driver_.offer(kStatistics, {{kFrames, 20}});
  };
  tell(4711);
  EXPECT_TRUE(eventually([&] { return machine_.balloon.statistics().values[4] == 4711; }));
  EXPECT_STREQ(BalloonStatistics::kNames[4], "free_bytes");
  EXPECT_FALSE(machine_.balloon.statistics().values[0]);
  ASSERT_TRUE(eventually([&] { return driver_.rings[kStatistics].used_index() == 1; }));
  tell(4712);
  EXPECT_TRUE(eventually([&] { return machine_.balloon.statistics().values[4] == 4712; }));
}

TEST_F(VirtioBalloonTest, TheStatisticsBufferMovesWithTheGuest) {
  ASSERT_EQ(driver_.bring_up(), 15);
  machine_.memory.store(kFrames, std::uint16_t{4});
  machine_.memory.store(kFrames + 2, std::uint64_t{99});
  driver_.offer(kStatistics, {{kFrames, 10}});
  std::this_thread::sleep_for(std::chrono::milliseconds(20));  // it is taken now, and kept
  EXPECT_EQ(driver_.rings[kStatistics].used_index(), 0);
  BalloonMachine there;
  move_plain(there, there.device, machine_, machine_.device);
  EXPECT_TRUE(eventually([&] { return there.balloon.statistics().values[4] == 99; }));
  DriverRing ring(there.memory, 3 << 16, VirtioBalloon::kQueueSize);
  EXPECT_TRUE(eventually([&] { return ring.used_index() == 1; }));
}

TEST_F(VirtioBalloonTest, BadFramesBreakTheDeviceUntilItIsReset) {
  const std::vector<std::vector<Buffer>> bad = {
      {{kFrames, 6}},                          // no whole frame number
      {{kFrames, 1 << 20}},                    // too many
      {{kFrames, 4, true}},                    // wrong direction
      {{kFrames, 4}, {kFrames + 8, 4, true}},  // half of it
  };
  for (const auto& chain : bad) {
    ASSERT_EQ(driver_.bring_up(), 15);
    driver_.offer(kInflate, chain);
    EXPECT_TRUE(driver_.breaks());
  }
  ASSERT_EQ(driver_.bring_up(), 15);
  machine_.memory.store(kFrames, std::uint32_t{0xffffffff});  // outside RAM
  driver_.offer(kInflate, {{kFrames, 4}});
  EXPECT_TRUE(driver_.breaks());
  ASSERT_EQ(driver_.bring_up(), 15);
  driver_.offer(kStatistics, {{kFrames, 10}}, 0);
  driver_.offer(kStatistics, {{kFrames, 10}}, 1);  // a second buffer
  EXPECT_TRUE(driver_.breaks());
  ASSERT_EQ(driver_.bring_up(), 15);
  EXPECT_TRUE(machine_.give(kInflate, kFirst, 4));
}

TEST_F(VirtioBalloonTest, RandomFramesAndReportsTouchNothingButTheGuest) {
  std::mt19937_64 random(3);
  for (int round = 0; round < 200; ++round) {
    ASSERT_EQ(driver_.bring_up(), 15);
    std::vector<std::uint32_t> frames(1 + random() % 64);
    for (auto& frame : frames) frame = static_cast<std::uint32_t>(512 + random() % 8000);
    driver_.store(kFrames, std::as_bytes(std::span(frames)));
    const auto queue = static_cast<unsigned>(random() % 5);
    driver_.offer(queue, {{random() % 3 == 0 ? random() % (20 << 20) : kFrames,
                           static_cast<std::uint32_t>(random() % 300), random() % 2 == 0}});
    std::this_thread::sleep_for(std::chrono::microseconds(random() % 300));
    machine_.balloon.statistics();
  }
  ASSERT_EQ(driver_.bring_up(), 15);
  EXPECT_TRUE(machine_.give(kInflate, kFirst, 4));
}

}  // namespace
}  // namespace godwit::devices
