#include "vmm/memory/guest_memory.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <stdexcept>
#include <system_error>
#include <thread>

namespace godwit::memory {
namespace {

constexpr std::uint64_t kMiB = 1 << 20;
constexpr std::uint64_t kGiB = 1 << 30;
using Ranges = std::vector<PageRange>;

TEST(GuestMemory, SmallRamIsOneRegion) {
  const GuestMemory memory(8 * kMiB);
  ASSERT_EQ(memory.regions().size(), 1u);
  EXPECT_EQ(memory.regions()[0].size, 8 * kMiB);
  EXPECT_EQ(memory.pages(), 2048u);
}

TEST(GuestMemory, LargeRamSkipsTheDeviceHole) {
  GuestMemory memory(5 * kGiB);
  ASSERT_EQ(memory.regions().size(), 2u);
  EXPECT_EQ(memory.regions()[1].guest_addr, 4 * kGiB);
  EXPECT_EQ(memory.regions()[1].ram_offset, 3 * kGiB);
  EXPECT_TRUE(memory.store<std::uint32_t>(3 * kGiB - 4, 1));
  EXPECT_FALSE(memory.store<std::uint32_t>(3 * kGiB - 3, 1));
  EXPECT_FALSE(memory.store<std::uint32_t>(3 * kGiB, 1));
  EXPECT_FALSE(memory.store<std::uint32_t>(4 * kGiB - 1, 1));
  EXPECT_TRUE(memory.store<std::uint32_t>(4 * kGiB, 7));
  EXPECT_TRUE(memory.store<std::uint32_t>(6 * kGiB - 4, 1));
  EXPECT_FALSE(memory.store<std::uint32_t>(6 * kGiB, 1));
  EXPECT_EQ(memory.page_bytes({3 * kGiB / kPageSize, 1})[0], std::byte{7});
}

TEST(GuestMemory, RefusesWhatOverflows) {
  GuestMemory memory(2 * kMiB);
  EXPECT_FALSE(memory.readable(UINT64_MAX, 2));
  EXPECT_FALSE(memory.readable(4096, UINT64_MAX));
  EXPECT_FALSE(memory.readable(4096, UINT64_MAX - 4095));
  EXPECT_FALSE(memory.writable(2 * kMiB, 0));
  EXPECT_THROW((void)memory.page_bytes({0, UINT64_MAX}), std::out_of_range);
  EXPECT_THROW(memory.punch_hole({511, 2}), std::out_of_range);
  EXPECT_THROW((void)memory.populated({513, 0}), std::out_of_range);
  EXPECT_THROW(GuestMemory(0), std::invalid_argument);
  EXPECT_THROW(GuestMemory(4097), std::invalid_argument);
}

TEST(GuestMemory, KeepsHolesAsHoles) {
  GuestMemory memory(16 * kMiB);
  EXPECT_EQ(memory.populated({0, 4096}), Ranges{});
  memory.store<std::uint8_t>(5 * kPageSize, 1);
  memory.store<std::uint8_t>(6 * kPageSize, 1);
  memory.store<std::uint8_t>(4095 * kPageSize, 1);
  EXPECT_EQ(memory.populated({0, 4096}), (Ranges{{5, 2}, {4095, 1}}));
  EXPECT_EQ(memory.populated({6, 100}), (Ranges{{6, 1}}));
  memory.punch_hole({5, 2});
  EXPECT_EQ(memory.populated({0, 4096}), (Ranges{{4095, 1}}));
  EXPECT_EQ(memory.load<std::uint8_t>(5 * kPageSize), 0);
}

TEST(GuestMemory, FindsDataChunkByChunkAsAtOnce) {
  GuestMemory memory(16 * kMiB);
  for (const PageRange& run : Ranges{{0, 3}, {60, 10}, {128, 200}, {4090, 6}}) {
    for (std::uint64_t page = run.first; page < run.end(); ++page) {
      memory.store<std::uint8_t>(page * kPageSize, 1);
    }
  }
  PageBitmap found(4096);
  PageRange seen{};
  for (std::uint64_t at = 0; at < 4096; at += 64) {
    for (const PageRange& run : memory.populated({at, 64}, seen)) found.set(run);
    if (at == 64) memory.store<std::uint8_t>(1000 * kPageSize, 1);  // a hole seen is no promise
  }
  EXPECT_EQ(found.ranges(), (Ranges{{0, 3}, {60, 10}, {128, 200}, {1000, 1}, {4090, 6}}));
}

/// A file of 16 MiB with 'A' in page 3, 'B' in page 600 and holes around.
sys::UniqueFd memory_file() {
  std::string path = testing::TempDir() + "godwit_ram_XXXXXX";
  sys::UniqueFd fd(::mkstemp(path.data()));
  ::unlink(path.c_str());
  EXPECT_EQ(::ftruncate(fd.get(), 16 * kMiB), 0);
  EXPECT_EQ(::pwrite(fd.get(), "A", 1, 3 * kPageSize), 1);
  EXPECT_EQ(::pwrite(fd.get(), "B", 1, 600 * kPageSize), 1);
  return fd;
}

TEST(GuestMemory, APrivateCopyHasItsFilesDataAndWhatWasWritten) {
  sys::UniqueFd file = memory_file();
  const sys::UniqueFd second(::dup(file.get()));
  GuestMemory memory(16 * kMiB, false, {std::move(file)});
  EXPECT_TRUE(memory.private_copy());
  EXPECT_EQ(memory.populated({0, 4096}), (Ranges{{3, 1}, {600, 1}}));
  EXPECT_EQ(memory.load<char>(3 * kPageSize), 'A');
  EXPECT_EQ(memory.load<char>(100 * kPageSize), 0);  // a hole that was looked at stays one
  EXPECT_EQ(memory.populated({0, 4096}), (Ranges{{3, 1}, {600, 1}}));
  memory.store<char>(4 * kPageSize, 'C');
  memory.store<char>(600 * kPageSize, 'D');
  memory.store<char>(4095 * kPageSize, 'E');
  EXPECT_EQ(memory.populated({0, 4096}), (Ranges{{3, 2}, {600, 1}, {4095, 1}}));
  EXPECT_EQ(memory.populated({4, 597}), (Ranges{{4, 1}, {600, 1}}));
  std::vector<std::byte> page(kPageSize);
  EXPECT_TRUE(memory.peek(600, page));
  EXPECT_EQ(page[0], std::byte{'D'});
  EXPECT_GE(memory.populated_bytes(), 4 * kPageSize);
  EXPECT_LE(memory.populated_bytes(), 16 * kMiB);

  GuestMemory other(16 * kMiB, false, {sys::UniqueFd(::dup(second.get()))});  // sees none of it
  EXPECT_EQ(other.load<char>(600 * kPageSize), 'B');
  EXPECT_EQ(other.load<char>(4 * kPageSize), 0);
}

TEST(GuestMemory, WhatIsGivenBackOfAPrivateCopyReadsAsZero) {
  GuestMemory memory(16 * kMiB, false, {memory_file()});
  memory.store<char>(4 * kPageSize, 'C');
  memory.punch_hole({3, 2});
  EXPECT_EQ(memory.load<char>(3 * kPageSize), 0);
  EXPECT_EQ(memory.load<char>(4 * kPageSize), 0);
  EXPECT_EQ(memory.load<char>(600 * kPageSize), 'B');
  memory.punch_hole({512, 1024});
  EXPECT_EQ(memory.load<char>(600 * kPageSize), 0);
  memory.store<char>(601 * kPageSize, 'F');
  const Ranges populated = memory.populated({512, 1024});
  ASSERT_FALSE(populated.empty());
  EXPECT_EQ(memory.load<char>(601 * kPageSize), 'F');
}

TEST(GuestMemory, RefusesAFileThatIsTooSmall) {
  EXPECT_THROW(GuestMemory(32 * kMiB, false, {memory_file()}), std::invalid_argument);
  EXPECT_NO_THROW(GuestMemory(8 * kMiB, false, {memory_file()}));
  EXPECT_THROW(GuestMemory(4096, false, {sys::UniqueFd()}), std::system_error);
}

TEST(GuestMemory, PeeksWithoutPopulating) {
  GuestMemory memory(16 * kMiB);
  std::vector<std::byte> page(kPageSize);
  EXPECT_FALSE(memory.peek(5, page));
  EXPECT_EQ(memory.populated_bytes(), 0u);
  memory.store<std::uint8_t>(5 * kPageSize + 4095, 7);
  EXPECT_TRUE(memory.peek(5, page));
  EXPECT_EQ(page.back(), std::byte{7});
  EXPECT_EQ(memory.populated_bytes(), kPageSize);
  EXPECT_FALSE(memory.peek(4096, page));
  EXPECT_FALSE(memory.peek(UINT64_MAX, page));
  EXPECT_FALSE(memory.peek(5, std::span(page).first(8)));
  memory.punch_hole({5, 1});
  EXPECT_FALSE(memory.peek(5, page));
  EXPECT_EQ(memory.populated_bytes(), 0u);
}

TEST(GuestMemory, RecordsItsOwnWritesOnlyWhileTracking) {
  GuestMemory memory(4 * kMiB);
  PageBitmap dirty(memory.pages());
  memory.store<std::uint8_t>(0, 1);
  memory.track_writes(true);
  memory.store<std::uint64_t>(2 * kPageSize - 4, 1);  // two pages
  EXPECT_TRUE(memory.readable(10 * kPageSize, 10));
  memory.collect_writes(dirty);
  EXPECT_EQ(dirty.ranges(), (Ranges{{1, 2}}));
  dirty.clear();
  memory.collect_writes(dirty);
  EXPECT_EQ(dirty.count(), 0u);
  memory.track_writes(false);
  memory.store<std::uint8_t>(0, 1);
  memory.collect_writes(dirty);
  EXPECT_EQ(dirty.count(), 0u);
}

TEST(GuestMemory, MarksAPageAfterItWasWritten) {
  GuestMemory memory(4 * kMiB);
  memory.track_writes(true);
  PageBitmap dirty(memory.pages());
  {
    auto write = memory.writable(kPageSize, 3 * kPageSize);
    ASSERT_TRUE(write);
    const GuestWrite moved = std::move(*write);
    memory.collect_writes(dirty);
    EXPECT_EQ(dirty.count(), 0u);
  }
  memory.collect_writes(dirty);
  EXPECT_EQ(dirty.ranges(), (Ranges{{1, 3}}));
}

TEST(GuestMemory, LosesNoMarkOfConcurrentWriters) {
  GuestMemory memory(4 * kMiB);
  memory.track_writes(true);
  PageBitmap dirty(memory.pages());
  std::thread even([&] {
    for (std::uint64_t p = 0; p < memory.pages(); p += 2) memory.store(p * kPageSize, p);
  });
  std::thread odd([&] {
    for (std::uint64_t p = 1; p < memory.pages(); p += 2) memory.store(p * kPageSize, p);
  });
  for (int i = 0; i < 100; ++i) memory.collect_writes(dirty);
  even.join();
  odd.join();
  memory.collect_writes(dirty);
  EXPECT_EQ(dirty.count(), memory.pages());
}

TEST(GuestMemory, TakesHugePagesOrSaysThatThereAreNone) {
  try {
    GuestMemory memory(2 * kMiB, true);
    EXPECT_EQ(memory.populated({0, 512}), Ranges{});
    memory.store<std::uint8_t>(0, 1);
    EXPECT_EQ(memory.populated({0, 512}), (Ranges{{0, 512}}));
  } catch (const std::system_error& error) {
    EXPECT_EQ(error.code(), std::errc::not_enough_memory) << error.what();
  }
}

}  // namespace
TEST(GuestMemory, ExpectedWritesPopulateWholeBlocksOnly) {
  constexpr std::uint64_t kBlock = 512;  // pages of 2 MiB
  GuestMemory memory(16 * kMiB);
  memory.expect_writes({1, 3 * kBlock});  // blocks 1 and 2 lie inside
  for (const PageRange& range : memory.populated({0, memory.pages()})) {
    EXPECT_GE(range.first, kBlock);
    EXPECT_LE(range.end(), 3 * kBlock);
  }
  EXPECT_FALSE(memory.populated({kBlock, 1}).empty());
  EXPECT_FALSE(memory.populated({2 * kBlock, 1}).empty());
}

TEST(GuestMemory, AreExpectedOnceSoWhatWasWrittenSinceStays) {
  GuestMemory memory(4 * kMiB);
  memory.expect_writes({0, memory.pages()});
  ASSERT_TRUE(memory.store<std::uint64_t>(2 * kMiB, 0x1122334455667788));
  memory.expect_writes({0, memory.pages()});
  EXPECT_EQ(memory.load<std::uint64_t>(2 * kMiB), 0x1122334455667788u);
  EXPECT_THROW(memory.expect_writes({memory.pages(), 1}), std::out_of_range);
}

}  // namespace godwit::memory
