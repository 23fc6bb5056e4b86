#include "migration/digest.h"

#include <gtest/gtest.h>

#include <cstring>

#include "migration/channel.h"

namespace godwit::migration {
namespace {

constexpr std::uint64_t kSize = 40 << 20;  // two regions and a half

class DigestTest : public ::testing::Test {
 protected:
  static void fill(memory::GuestMemory& memory, std::uint64_t page, int value) {
    std::memset(memory.page_bytes({page, 1}).data(), value, memory::kPageSize);
  }
  /// Empty if `there_` has what `here_` has.
  std::string complaint() {
    const auto digests = digest_regions(here_);
    try {
      require_same_memory(there_, std::as_bytes(std::span(digests)));
    } catch (const ChannelError& error) {
      return error.what();
    }
    return {};
  }
  memory::GuestMemory here_{kSize};
  memory::GuestMemory there_{kSize};
};

TEST_F(DigestTest, SameMemoryIsTheSameAndAZeroPageIsAHole) {
  EXPECT_EQ(digest_regions(here_).size(), 3u);
  for (const std::uint64_t page : {0ul, 4095ul, 4096ul, 10239ul}) {
    fill(here_, page, 7);
    EXPECT_NE(complaint(), "");
    fill(there_, page, 7);
    EXPECT_EQ(complaint(), "");
  }
  fill(here_, 100, 0);
  EXPECT_EQ(complaint(), "");
  const std::uint64_t before = there_.populated_bytes();
  EXPECT_EQ(complaint(), "");
  EXPECT_EQ(there_.populated_bytes(), before) << "holes were populated";
}

TEST_F(DigestTest, OneBitIsSeenAndItsRegionNamed) {
  fill(here_, 5000, 7);
  fill(there_, 5000, 7);
  there_.page_bytes({5000, 1})[4095] ^= std::byte{0x80};
  EXPECT_NE(complaint().find("1 of 3 regions of 16 MiB differ, the first at 16 MiB"),
            std::string::npos)
      << complaint();
}

TEST_F(DigestTest, PagesThatChangedPlacesAreSeen) {
  fill(here_, 1, 7);
  fill(here_, 2, 8);
  fill(there_, 1, 8);
  fill(there_, 2, 7);
  EXPECT_NE(complaint(), "");
  memory::GuestMemory third(kSize);
  fill(third, 3, 7);  // the same page elsewhere in the region
  memory::GuestMemory fourth(kSize);
  fill(fourth, 4, 7);
  EXPECT_NE(digest_regions(third), digest_regions(fourth));
}

TEST_F(DigestTest, DigestsOfAnotherNumberOfRegionsAreRefused) {
  const std::vector<std::uint64_t> digests(2);
  EXPECT_THROW(require_same_memory(here_, std::as_bytes(std::span(digests))), ChannelError);
  EXPECT_THROW(require_same_memory(here_, std::as_bytes(std::span(digests)).first(7)),
               ChannelError);
  EXPECT_THROW(require_same_memory(here_, {}), ChannelError);
}

}  // namespace
}  // namespace godwit::migration
