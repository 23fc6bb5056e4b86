#include "vmm/memory/dirty_rate.h"

#include <gtest/gtest.h>

namespace godwit::memory {
namespace {

using std::chrono::milliseconds;
constexpr std::uint64_t kMiB = 1 << 20;
constexpr std::uint64_t kMiBPages = kMiB / kPageSize;

class DirtyRateTest : public testing::Test {
 protected:
  /// One byte into each page of `range`, another one at each call.
  void touch(PageRange range, std::uint64_t step = 1) {
    ++value_;
    for (std::uint64_t page = range.first; page < range.end(); page += step) {
      memory_.store(page * kPageSize + 8 * (page % 512), value_);
    }
  }
  double sample(milliseconds later = milliseconds(1000), bool renew = true) {
    now_ += later;
    return rate_.sample(memory_, now_, renew);
  }

  GuestMemory memory_{std::uint64_t{1} << 30};
  DirtyRate rate_{42};
  DirtyRate::TimePoint now_{};
  std::uint64_t value_ = 0;
};

TEST_F(DirtyRateTest, EstimatesTheShareOfPagesThatChange) {
  for (const std::uint64_t every : {2, 4, 10}) {
    rate_.reset();
    const PageRange used{100 * kMiBPages, 16 * kMiBPages};
    touch(used);
    EXPECT_EQ(sample(), 0);
    double rate = 0;
    for (int i = 0; i < 24; ++i) {  // the sample is another one after 8
      touch(used, every);
      rate = sample();
    }
    const double expected = 16.0 * kMiB / static_cast<double>(every);
    EXPECT_NEAR(rate, expected, expected / 3) << every;
  }
}

TEST_F(DirtyRateTest, IsZeroForAGuestThatRests) {
  touch({0, 16 * kMiBPages});
  for (int i = 0; i < 5; ++i) EXPECT_EQ(sample(), 0);
}

TEST_F(DirtyRateTest, SaturatesAtAllThatIsPopulatedInAnInterval) {
  touch({0, 16 * kMiBPages});
  sample();
  for (int i = 0; i < 20; ++i) touch({0, 16 * kMiBPages});
  EXPECT_EQ(sample(milliseconds(2000)), 8.0 * kMiB);
}

TEST_F(DirtyRateTest, CountsWhatIsPopulatedAnew) {
  EXPECT_EQ(sample(), 0);  // an empty guest
  touch({0, 4 * kMiBPages});
  EXPECT_EQ(sample(), 4.0 * kMiB);
}

TEST_F(DirtyRateTest, PopulatesNothing) {
  sample();
  EXPECT_EQ(memory_.populated_bytes(), 0u);
  touch({7, 1});
  touch({3 * kMiBPages, 5}, 2);
  const std::uint64_t before = memory_.populated_bytes();
  EXPECT_EQ(before, 4 * kPageSize);
  for (int i = 0; i < 20; ++i) sample();
  EXPECT_EQ(memory_.populated_bytes(), before);
  // Nor again what the guest gave back after it was chosen.
  memory_.punch_hole({0, 8 * kMiBPages});
  for (int i = 0; i < 5; ++i) EXPECT_LT(sample(), 1.0 * kMiB);
  EXPECT_EQ(memory_.populated_bytes(), 0u);
}

TEST_F(DirtyRateTest, FindsTheFewPagesOfALargeGuest) {
  GuestMemory large(std::uint64_t{64} << 30);
  const auto touch_all = [&](std::uint64_t value) {
    for (std::uint64_t page = 0; page < 4 * kMiBPages; ++page) {
      large.store(page * kPageSize, value);
      large.store((std::uint64_t{40} << 30) + page * kPageSize, value);
    }
  };
  double rate = 0;
  for (std::uint64_t second = 0; second < 12; ++second) {
    touch_all(second);
    rate = rate_.sample(large, now_ += milliseconds(1000));
  }
  EXPECT_NEAR(rate, 8.0 * kMiB, 1.0 * kMiB);
}

TEST_F(DirtyRateTest, FollowsTheWorkingSetToWhereItGoes) {
  touch({0, 32 * kMiBPages});
  sample();
  for (int i = 0; i < 3; ++i) sample();
  double rate = 0;  // 32 MiB more are taken into use, and only they are written from then on
  for (int i = 0; i < 25; ++i) {
    touch({500 * kMiBPages, 32 * kMiBPages});
    rate = sample();
  }
  EXPECT_NEAR(rate, 32.0 * kMiB, 8.0 * kMiB);
}

TEST_F(DirtyRateTest, AnswersTheSameToThoseWhoAskTooOften) {
  touch({0, 16 * kMiBPages});
  sample();
  touch({0, 16 * kMiBPages});
  const double rate = sample();
  EXPECT_EQ(rate, 16.0 * kMiB);
  touch({0, 16 * kMiBPages});
  EXPECT_EQ(sample(milliseconds(1)), rate);
  EXPECT_EQ(sample(milliseconds(0)), rate);
  EXPECT_EQ(sample(milliseconds(-5000)), rate);
}

TEST_F(DirtyRateTest, GoesOnWithTheSamePagesDuringAMove) {
  touch({0, 16 * kMiBPages});
  EXPECT_EQ(sample(milliseconds(1000), false), 0);
  EXPECT_EQ(sample(milliseconds(1000), false), 0) << "nothing was chosen yet";
  sample();
  touch({0, 16 * kMiBPages});
  EXPECT_GT(sample(milliseconds(1000), false), 1.0 * kMiB);
}

}  // namespace
}  // namespace godwit::memory
