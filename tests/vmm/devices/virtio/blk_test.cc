#include "vmm/devices/virtio/blk.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>

#include <cerrno>
#include <cstring>
#include <thread>

#include "tests/vmm/devices/virtio/blk_fixture.h"

namespace godwit::devices {
namespace {

constexpr std::uint64_t kData = 4 << 20;

/// Every case with both engines.
class VirtioBlkTest : public testing::TestWithParam<IoEngine::Kind> {
 protected:
  ScratchFile file_{kImageSize};
  BlkMachine machine_{file_.path, false, GetParam()};
  BlkDriver driver_{machine_};
};

INSTANTIATE_TEST_SUITE_P(Engines, VirtioBlkTest,
                         testing::Values(IoEngine::Kind::kBest, IoEngine::Kind::kSynchronous),
                         [](const auto& param) {
                           return param.param == IoEngine::Kind::kBest ? "Best" : "Synchronous";
                         });

TEST_P(VirtioBlkTest, ShowsItsSizeAndLimits) {
  const auto config = machine_.registers.config;
  EXPECT_EQ(read_as<std::uint64_t>(machine_.device, config), kImageSectors);
  EXPECT_EQ(read_as<std::uint32_t>(machine_.device, config + 12), 254u);
  EXPECT_EQ(read_as<std::uint32_t>(machine_.device, config + 20), 512u);
}

TEST_P(VirtioBlkTest, WritesAndReadsBack) {
  ASSERT_EQ(driver_.bring_up(), 15);
  driver_.fill(kData, 4096, 'w');
  EXPECT_EQ(driver_.request(kBlkOut, 8, {{kData, 4096}}), kBlkOk);
  EXPECT_EQ(driver_.last_length, 1u);
  EXPECT_EQ(file_.read(4096, 4096), std::vector<char>(4096, 'w'));
  EXPECT_EQ(driver_.request(kBlkIn, 8, {{kData + 8192, 1024, true}, {kData + 16384, 3072, true}}),
            kBlkOk);
  EXPECT_EQ(driver_.last_length, 4097u);
  EXPECT_EQ(driver_.bytes(kData + 8192, 1024), std::vector<char>(1024, 'w'));
  EXPECT_EQ(driver_.bytes(kData + 16384, 3072), std::vector<char>(3072, 'w'));
  EXPECT_EQ(driver_.request(kBlkFlush, 0, {}), kBlkOk);
  EXPECT_GT(machine_.vectors.fired(0), 0);
}

TEST_P(VirtioBlkTest, CountsTheBytesItMoves) {
  ASSERT_EQ(driver_.bring_up(), 15);
  EXPECT_EQ(machine_.blk.read_bytes(), 0u);
  EXPECT_EQ(machine_.blk.written_bytes(), 0u);
  EXPECT_EQ(driver_.request(kBlkOut, 8, {{kData, 4096}}), kBlkOk);
  EXPECT_EQ(driver_.request(kBlkIn, 8, {{kData, 1024, true}, {kData + 4096, 512, true}}), kBlkOk);
  EXPECT_EQ(driver_.request(kBlkIn, kImageSectors, {{kData, 512, true}}), kBlkIoError);
  EXPECT_EQ(driver_.request(kBlkFlush, 0, {}), kBlkOk);
  EXPECT_EQ(driver_.request(kBlkGetId, 0, {{kData, 20, true}}), kBlkOk);
  EXPECT_EQ(machine_.blk.read_bytes(), 1536u);
  EXPECT_EQ(machine_.blk.written_bytes(), 4096u);
}

TEST_P(VirtioBlkTest, TakesAnyLayoutOfTheRequest) {
  ASSERT_EQ(driver_.bring_up(), 15);
  auto& memory = machine_.memory;
  const std::uint64_t header = BlkDriver::kHeaders;
  memory.store(header, kBlkOut);
  memory.store(header + 4, 0);
  memory.store(header + 8, std::uint64_t{2});
  driver_.fill(header + 16, 512, 'l');
  // The header in three parts, the last of them with data; the status behind an empty descriptor.
  driver_.ring.set_chain(0, {{header, 3},
                             {header + 3, 9},
                             {header + 12, 104},
                             {header + 116, 412},
                             {header + 1024, 0, true},
                             {header + 1024, 1, true}});
  driver_.ring.offer(0);
  driver_.kick();
  ASSERT_TRUE(driver_.wait_used(1));
  EXPECT_EQ(memory.load<std::uint8_t>(header + 1024), kBlkOk);
  EXPECT_EQ(file_.read(1024, 512), std::vector<char>(512, 'l'));
  // A read whose last data byte and status share a descriptor.
  memory.store(header, kBlkIn);
  driver_.ring.set_chain(0, {{header, 16}, {kData, 513, true}});
  driver_.ring.offer(0);
  driver_.kick();
  ASSERT_TRUE(driver_.wait_used(2));
  EXPECT_EQ(driver_.ring.used_length(1), 513u);
  EXPECT_EQ(driver_.bytes(kData, 512), std::vector<char>(512, 'l'));
  EXPECT_EQ(memory.load<std::uint8_t>(kData + 512), kBlkOk);
}

TEST_P(VirtioBlkTest, RefusesWhatDoesNotFitTheDisk) {
  ASSERT_EQ(driver_.bring_up(), 15);
  const std::vector<Buffer> sector = {{kData, 512, true}};
  EXPECT_EQ(driver_.request(kBlkIn, kImageSectors - 1, sector), kBlkOk);
  EXPECT_EQ(driver_.request(kBlkIn, kImageSectors, sector), kBlkIoError);
  EXPECT_EQ(driver_.request(kBlkIn, ~0ULL, sector), kBlkIoError);
  EXPECT_EQ(driver_.request(kBlkIn, ~0ULL / 512, sector), kBlkIoError);
  EXPECT_EQ(driver_.request(kBlkIn, kImageSectors - 1, {{kData, 1024, true}}), kBlkIoError);
  EXPECT_EQ(driver_.request(kBlkIn, 0, {{kData, 511, true}}), kBlkIoError);
  EXPECT_EQ(driver_.request(kBlkOut, kImageSectors, {{kData, 512}}), kBlkIoError);
  EXPECT_EQ(driver_.request(kBlkIn, 0, {}), kBlkOk);  // nothing is something
  EXPECT_EQ(machine_.registers.status(), 15);
}

TEST_P(VirtioBlkTest, SaysWhatItDoesNotSupport) {
  ASSERT_EQ(driver_.bring_up(), 15);
  for (const std::uint32_t type : {2U, 3U, 5U, 14U, ~0U}) {
    EXPECT_EQ(driver_.request(type, 0, {}), kBlkUnsupported) << type;
  }
}

TEST_P(VirtioBlkTest, TellsItsSerialNumber) {
  ASSERT_EQ(driver_.bring_up(), 15);
  driver_.fill(kData, 64, '#');
  EXPECT_EQ(driver_.request(kBlkGetId, 0, {{kData, 20, true}}), kBlkOk);
  EXPECT_EQ(driver_.last_length, 21u);
  const auto id = driver_.bytes(kData, 21);
  EXPECT_STREQ(id.data(), "serial-number");
  EXPECT_EQ(id[20], '#');
}

TEST_P(VirtioBlkTest, WriteZeroesAndDiscardClearTheirRangeOnly) {
  file_.write(0, std::vector<char>(kImageSize, 'x'));
  ASSERT_EQ(driver_.bring_up(), 15);
  struct {
    std::uint64_t sector;
    std::uint32_t count, flags;
  } const range = {16, 32, 0}, unmap = {64, 32, 1}, outside = {kImageSectors - 1, 2, 0},
          wraps = {~0ULL - 1, 4, 0}, odd_flag = {0, 8, 2};
  const auto with = [&](const auto& segment) {
    machine_.memory.store(kData, segment);
    return std::vector<Buffer>{{kData, 16}};
  };
  EXPECT_EQ(driver_.request(kBlkWriteZeroes, 0, with(range)), kBlkOk);
  EXPECT_EQ(driver_.request(kBlkWriteZeroes, 0, with(unmap)), kBlkOk);
  EXPECT_EQ(driver_.request(kBlkWriteZeroes, 0, with(outside)), kBlkIoError);
  EXPECT_EQ(driver_.request(kBlkWriteZeroes, 0, with(wraps)), kBlkIoError);
  EXPECT_EQ(driver_.request(kBlkWriteZeroes, 0, with(odd_flag)), kBlkUnsupported);
  EXPECT_EQ(driver_.request(kBlkDiscard, 0, with(unmap)), kBlkUnsupported);
  EXPECT_EQ(driver_.request(kBlkDiscard, 0, with(outside)), kBlkIoError);
  EXPECT_EQ(driver_.request(kBlkDiscard, 0, {{kData, 15}}), kBlkIoError);
  EXPECT_EQ(driver_.request(kBlkDiscard, 0, {{kData, 32}}), kBlkIoError);
  EXPECT_EQ(driver_.request(kBlkDiscard, 0, {}), kBlkIoError);
  const auto bytes = file_.read(0, kImageSize);
  for (std::uint64_t sector = 0; sector < kImageSectors; ++sector) {
    const bool zero = (sector >= 16 && sector < 48) || (sector >= 64 && sector < 96);
    ASSERT_EQ(bytes[sector * 512], zero ? 0 : 'x') << sector;
    ASSERT_EQ(bytes[sector * 512 + 511], zero ? 0 : 'x') << sector;
  }
}

TEST_P(VirtioBlkTest, WritesZeroesItselfWhereTheFileSystemCannot) {
  // tmpfs punches holes but knows no FALLOC_FL_ZERO_RANGE.
  const sys::UniqueFd file(::memfd_create("image", MFD_CLOEXEC));
  const std::vector<char> before(kImageSize, 'x');
  ASSERT_EQ(::pwrite(file.get(), before.data(), before.size(), 0),
            static_cast<ssize_t>(kImageSize));
  ASSERT_NE(::fallocate(file.get(), FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, 0, 512), 0);
  BlkMachine machine("/proc/self/fd/" + std::to_string(file.get()), false, GetParam());
  BlkDriver driver(machine);
  ASSERT_EQ(driver.bring_up(), 15);
  struct {
    std::uint64_t sector;
    std::uint32_t count, flags;
  } const range = {1, static_cast<std::uint32_t>(kImageSectors) - 2, 0};  // longer than one write
  machine.memory.store(kData, range);
  ASSERT_EQ(driver.request(kBlkWriteZeroes, 0, {{kData, 16}}), kBlkOk);
  std::vector<char> after(kImageSize);
  ASSERT_EQ(::pread(file.get(), after.data(), after.size(), 0), static_cast<ssize_t>(kImageSize));
  auto expected = before;
  std::fill(expected.begin() + 512, expected.end() - 512, '\0');
  EXPECT_EQ(after, expected);
}

TEST_P(VirtioBlkTest, DiscardGivesSpaceBack) {
  file_.write(0, std::vector<char>(kImageSize, 'x'));
  ASSERT_EQ(driver_.bring_up(), 15);
  struct {
    std::uint64_t sector;
    std::uint32_t count, flags;
  } const all = {0, static_cast<std::uint32_t>(kImageSectors), 0};
  machine_.memory.store(kData, all);
  struct stat before = {};
  struct stat after = {};
  ASSERT_EQ(::stat(file_.path.c_str(), &before), 0);
  ASSERT_EQ(driver_.request(kBlkDiscard, 0, {{kData, 16}}), kBlkOk);
  ASSERT_EQ(::stat(file_.path.c_str(), &after), 0);
  EXPECT_LT(after.st_blocks, before.st_blocks / 4);
  EXPECT_EQ(after.st_size, before.st_size);
}

TEST_P(VirtioBlkTest, AReadOnlyDiskTakesNoWrites) {
  BlkMachine machine(file_.path, true, GetParam());
  BlkDriver driver(machine);
  ASSERT_EQ(driver.bring_up(), 15);
  EXPECT_NE(machine.registers.features() & (1 << 5), 0u);
  EXPECT_EQ(machine.registers.features() & (1 << 13 | 1 << 14), 0u);
  driver.fill(kData, 512, 'w');
  EXPECT_EQ(driver.request(kBlkOut, 0, {{kData, 512}}), kBlkIoError);
  EXPECT_EQ(driver.request(kBlkDiscard, 0, {{kData, 16}}), kBlkIoError);
  EXPECT_EQ(driver.request(kBlkIn, 0, {{kData, 512, true}}), kBlkOk);
  EXPECT_EQ(file_.read(0, 512), std::vector<char>(512, 0));
}

TEST_P(VirtioBlkTest, ManyRequestsInFlightAllComeBackRight) {
  constexpr unsigned kRequests = 80, kRounds = 20;
  ASSERT_EQ(driver_.bring_up(), 15);
  std::uint16_t used = 0;
  for (unsigned round = 0; round < kRounds; ++round) {
    const bool write = round % 2 == 0;
    std::vector<std::uint64_t> statuses;
    for (std::uint64_t i = 0; i < kRequests; ++i) {
      const auto value = static_cast<char>(round / 2 + i);
      if (write) driver_.fill(kData + i * 4096, 4096, value);
      if (!write) driver_.fill(kData + i * 4096, 4096, '?');
      statuses.push_back(driver_.prepare(static_cast<std::uint16_t>(3 * i),
                                         write ? kBlkOut : kBlkIn, i * 8,
                                         {{kData + i * 4096, 4096, !write}}));
      driver_.ring.offer(static_cast<std::uint16_t>(3 * i));
      if (i % 7 == 0) driver_.kick();
    }
    driver_.kick();
    used = static_cast<std::uint16_t>(used + kRequests);
    ASSERT_TRUE(driver_.wait_used(used));
    for (std::uint64_t i = 0; i < kRequests; ++i) {
      EXPECT_EQ(machine_.memory.load<std::uint8_t>(statuses[i]), kBlkOk);
      const auto value = static_cast<char>(round / 2 + i);
      ASSERT_EQ(driver_.bytes(kData + i * 4096, 4096), std::vector<char>(4096, value)) << i;
    }
  }
}

TEST_P(VirtioBlkTest, ReadsAreMarkedDirty) {
  ASSERT_EQ(driver_.bring_up(), 15);
  machine_.memory.track_writes(true);
  memory::PageBitmap pages(machine_.memory.pages());
  machine_.memory.collect_writes(pages);
  ASSERT_EQ(driver_.request(kBlkIn, 0, {{kData + 100, 8192, true}}), kBlkOk);
  pages.clear();
  machine_.memory.collect_writes(pages);
  for (std::uint64_t page = kData / 4096; page < kData / 4096 + 3; ++page) {
    EXPECT_TRUE(pages.test(page)) << page;
  }
  EXPECT_TRUE(pages.test((BlkDriver::kHeaders + 32) / 4096));  // status
  EXPECT_TRUE(pages.test(driver_.ring.used() / 4096));
  EXPECT_FALSE(pages.test(kData / 4096 + 3));
}

TEST_P(VirtioBlkTest, QuiesceLeavesNothingInFlightAndResumeGoesOn) {
  ASSERT_EQ(driver_.bring_up(), 15);
  for (std::uint16_t round = 0; round < 30; ++round) {
    for (std::uint16_t i = 0; i < 60; ++i) {
      const auto head = static_cast<std::uint16_t>(3 * i);
      driver_.prepare(head, kBlkIn, i * 64ULL, {{kData + i * 32768ULL, 32768, true}});
      driver_.ring.offer(head);
    }
    driver_.kick();
    machine_.device.quiesce();
    machine_.memory.track_writes(true);
    memory::PageBitmap pages(machine_.memory.pages());
    machine_.memory.collect_writes(pages);
    pages.clear();
    const auto used = driver_.ring.used_index();
    driver_.kick();  // rung while quiesced
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
    machine_.memory.collect_writes(pages);
    EXPECT_EQ(pages.count(), 0u);
    EXPECT_EQ(driver_.ring.used_index(), used);
    machine_.device.resume();
    ASSERT_TRUE(driver_.wait_used(driver_.ring.next_available()));
  }
}

TEST_P(VirtioBlkTest, RequestsNotTakenMoveToTheOtherSide) {
  ASSERT_EQ(driver_.bring_up(), 15);
  file_.write(0, std::vector<char>(4096, 'm'));
  machine_.device.quiesce();
  const std::uint64_t status = driver_.prepare(0, kBlkIn, 0, {{kData, 4096, true}});
  driver_.ring.offer(0);
  driver_.kick();  // the destination never hears of this doorbell
  const auto state = save_of(machine_.device);

  BlkMachine moved(file_.path, false, GetParam());
  moved.device.quiesce();
  const auto all = memory::PageRange{0, moved.memory.pages()};
  const auto from = machine_.memory.page_bytes(all);
  std::copy(from.begin(), from.end(), moved.memory.page_bytes(all).begin());
  restore_from(moved.device, state);
  moved.device.resume();
  DriverRing ring(moved.memory, BlkDriver::kRing, 256);
  ASSERT_TRUE(eventually([&] { return ring.used_index() == 1; }));
  EXPECT_EQ(moved.memory.load<std::uint8_t>(status), kBlkOk);
  EXPECT_EQ(moved.memory.load<char>(kData + 4095), 'm');
  EXPECT_GT(moved.vectors.fired(0), 0);
}

TEST_P(VirtioBlkTest, MovesAgainAndAgainUnderLoad) {
  constexpr std::uint16_t kRequests = 60;
  ASSERT_EQ(driver_.bring_up(), 15);
  std::unique_ptr<BlkMachine> moved;
  BlkMachine* here = &machine_;
  std::uint16_t index = 0;
  for (int move = 0; move < 12; ++move) {
    BlkDriver driver(*here);
    driver.ring.set_available_index(index);
    const auto value = static_cast<char>('a' + move);
    for (std::uint16_t i = 0; i < kRequests; ++i) {
      const auto head = static_cast<std::uint16_t>(3 * i);
      driver.fill(kData + i * 16384ULL, 16384, value);
      driver.prepare(head, move % 2 == 0 ? kBlkOut : kBlkIn, i * 32ULL,
                     {{kData + i * 16384ULL, 16384, move % 2 != 0}});
      driver.ring.offer(head);
    }
    index = driver.ring.next_available();
    driver.kick();
    if (move % 3 != 0) std::this_thread::sleep_for(std::chrono::microseconds(50 * move));
    here->device.quiesce();
    const auto state = save_of(here->device);
    auto next = std::make_unique<BlkMachine>(file_.path, false, GetParam());
    next->device.quiesce();
    const auto all = memory::PageRange{0, next->memory.pages()};
    const auto from = here->memory.page_bytes(all);
    std::copy(from.begin(), from.end(), next->memory.page_bytes(all).begin());
    restore_from(next->device, state);
    next->device.resume();
    moved = std::move(next);
    here = moved.get();
    BlkDriver there(*here);
    ASSERT_TRUE(there.wait_used(index)) << move;
    for (std::uint64_t i = 0; i < kRequests; ++i) {
      ASSERT_EQ(here->memory.load<std::uint8_t>(BlkDriver::kHeaders + 64 * 3 * i + 32), kBlkOk);
      const auto expected = static_cast<char>(move % 2 == 0 ? value : value - 1);
      ASSERT_EQ(there.bytes(kData + i * 16384, 16384), std::vector<char>(16384, expected));
    }
  }
}

TEST_P(VirtioBlkTest, RefusesToMoveOntoAnotherDisk) {
  ASSERT_EQ(driver_.bring_up(), 15);
  machine_.device.quiesce();
  const auto state = save_of(machine_.device);
  const ScratchFile smaller(kImageSize / 2);
  BlkMachine other(smaller.path, false, GetParam());
  EXPECT_THROW(restore_from(other.device, state), vmm::StateError);
  BlkMachine read_only(file_.path, true, GetParam());
  EXPECT_THROW(restore_from(read_only.device, state), vmm::StateError);
}

TEST_P(VirtioBlkTest, ResetWithRequestsInFlightLeavesNone) {
  for (int round = 0; round < 50; ++round) {
    ASSERT_EQ(driver_.bring_up(), 15);
    driver_.ring.set_available_index(0);
    for (std::uint16_t i = 0; i < 60; ++i) {
      const auto head = static_cast<std::uint16_t>(3 * i);
      driver_.prepare(head, kBlkIn, i * 64ULL, {{kData + i * 32768ULL, 32768, true}});
      driver_.ring.offer(head);
    }
    driver_.kick();
    machine_.registers.set_status(0);
    EXPECT_EQ(machine_.registers.status(), 0);
    // Whatever the reset left in the rings is ours again.
    driver_.fill(driver_.ring.descriptors(), driver_.ring.end() - driver_.ring.descriptors(), 0);
    driver_.ring.set_available_index(0);
  }
}

TEST_P(VirtioBlkTest, AMalformedRequestBreaksTheDeviceUntilItIsReset) {
  const std::vector<std::vector<Buffer>> bad = {
      {{BlkDriver::kHeaders, 15}, {kData, 1, true}},  // short header
      {{BlkDriver::kHeaders, 16}},                    // no status
      {{kData, 512, true}},                           // no header
      {{~0ULL, 16}, {kData, 1, true}},                // outside RAM
  };
  int interrupts = 0;
  for (const auto& chain : bad) {
    ASSERT_EQ(driver_.bring_up(), 15);
    driver_.ring.set_chain(0, chain);
    driver_.ring.offer(0);
    driver_.kick();
    ASSERT_TRUE(eventually([&] { return (machine_.registers.status() & 0x40) != 0; }));
    ASSERT_TRUE(eventually([&] { return machine_.vectors.fired(1) == interrupts + 1; }));
    ++interrupts;
    machine_.registers.set_status(0);
    driver_.fill(driver_.ring.descriptors(), driver_.ring.end() - driver_.ring.descriptors(), 0);
    driver_.ring.set_available_index(0);
  }
  ASSERT_EQ(driver_.bring_up(), 15);
  EXPECT_EQ(driver_.request(kBlkIn, 0, {{kData, 512, true}}), kBlkOk);
}

TEST_P(VirtioBlkTest, WithoutFlushFeatureWritesAreStableAndFlushStillAnswers) {
  ASSERT_EQ(driver_.bring_up(~(1ULL << 9)), 15);
  driver_.fill(kData, 512, 'd');
  EXPECT_EQ(driver_.request(kBlkOut, 0, {{kData, 512}}), kBlkOk);
  EXPECT_EQ(driver_.request(kBlkFlush, 0, {}), kBlkOk);
  EXPECT_EQ(file_.read(0, 512), std::vector<char>(512, 'd'));
}

TEST_P(VirtioBlkTest, AnImageTruncatedUnderItGivesErrors) {
  ASSERT_EQ(driver_.bring_up(), 15);
  ASSERT_EQ(::truncate(file_.path.c_str(), 4096 + 512), 0);
  EXPECT_EQ(driver_.request(kBlkIn, 64, {{kData, 512, true}}), kBlkIoError);
  EXPECT_EQ(driver_.last_length, 0u);
  EXPECT_EQ(driver_.request(kBlkIn, 8, {{kData, 1024, true}}), kBlkIoError);
  EXPECT_EQ(driver_.last_length, 512u);  // what was there came in
}

// Whatever lies where in guest RAM, though the host's disk wants it aligned.
TEST_P(VirtioBlkTest, PastThePageCacheAnyBufferWorks) {
  try {
    const DiskImage probe(file_.path, true, true);
  } catch (const std::runtime_error& error) {
    GTEST_SKIP() << error.what();
  }
  BlkMachine machine(file_.path, false, GetParam(), true);
  BlkDriver driver(machine);
  ASSERT_EQ(driver.bring_up(), 15);
  EXPECT_NE(::fcntl(machine.image.fd(), F_GETFL) & O_DIRECT, 0);
  const std::uint32_t block = machine.image.block_size();
  EXPECT_EQ(machine.registers.get<std::uint32_t>(machine.registers.config -
                                                 machine.registers.common + 20),
            block);
  std::vector<char> wanted(200 * std::size_t{block});
  for (std::size_t i = 0; i < wanted.size(); ++i) wanted[i] = static_cast<char>(i * 7 + i / 512);
  const auto size = static_cast<std::uint32_t>(wanted.size());
  machine.memory.write(kData + 3, std::as_bytes(std::span(wanted)));
  const std::uint64_t sectors = block / 512;
  // Odd addresses, odd lengths, and aligned ones.
  EXPECT_EQ(driver.request(kBlkOut, sectors, {{kData + 3, 1001}, {kData + 3 + 1001, size - 1001}}),
            kBlkOk);
  EXPECT_EQ(file_.read(block, size), wanted);
  EXPECT_EQ(driver.request(kBlkIn, sectors,
                           {{8 << 20, 4096 + 1, true}, {(9 << 20) + 5, size - 4097, true}}),
            kBlkOk);
  EXPECT_EQ(driver.last_length, size + 1);
  auto got = driver.bytes(8 << 20, 4097);
  const auto rest = driver.bytes((9 << 20) + 5, size - 4097);
  got.insert(got.end(), rest.begin(), rest.end());
  EXPECT_EQ(got, wanted);
  EXPECT_EQ(driver.request(kBlkIn, sectors, {{10 << 20, size & ~4095u, true}}), kBlkOk);
  EXPECT_TRUE(std::equal(wanted.begin(), wanted.begin() + (size & ~4095u),
                         driver.bytes(10 << 20, size & ~4095u).begin()));
  EXPECT_EQ(driver.request(kBlkFlush, 0, {}), kBlkOk);
  if (block > 512) {
    EXPECT_EQ(driver.request(kBlkIn, 1, {{kData, 512, true}}), kBlkIoError);
  }
  EXPECT_EQ(machine.blk.errors(), 0u);
}

// Only this thread sees the small file system.
TEST_P(VirtioBlkTest, AFullFileSystemIsAnErrorOfTheGuestsWriteAndCounted) {
  std::string skipped;
  std::thread([&] {
    const std::string folder = testing::TempDir();
    if (::unshare(CLONE_NEWNS) != 0 || ::mount("", "/", "", MS_REC | MS_PRIVATE, nullptr) != 0 ||
        ::mount("tmpfs", folder.c_str(), "tmpfs", 0, "size=1m") != 0) {
      skipped = std::strerror(errno);
      return;
    }
    const std::string path = folder + "/image";
    ASSERT_EQ(::close(::creat(path.c_str(), 0600)), 0);
    ASSERT_EQ(::truncate(path.c_str(), kImageSize), 0);
    BlkMachine machine(path, false, GetParam());
    BlkDriver driver(machine);
    ASSERT_EQ(driver.bring_up(), 15);
    driver.fill(kData, 4 << 20, 'f');
    EXPECT_EQ(driver.request(kBlkOut, 0, {{kData, 4096}}), kBlkOk);
    EXPECT_EQ(machine.blk.errors(), 0u);
    EXPECT_EQ(driver.request(kBlkOut, 8, {{kData, 4 << 20}}), kBlkIoError);
    EXPECT_EQ(machine.blk.errors(), 1u);
    EXPECT_EQ(machine.blk.last_error(), ENOSPC);
    EXPECT_EQ(driver.request(kBlkIn, 0, {{8 << 20, 4096, true}}), kBlkOk) << "it goes on";
    EXPECT_EQ(driver.bytes(8 << 20, 4096), std::vector<char>(4096, 'f'));
  }).join();
  if (!skipped.empty()) GTEST_SKIP() << "needs to mount a file system: " << skipped;
}

}  // namespace
}  // namespace godwit::devices
