#include "node/daemon/rise.h"

#include <gtest/gtest.h>

namespace godwit::node {
namespace {

TEST(Rise, IsThatOfAFullWindowOfTheSameGuests) {
  Rise rise;
  double now = 1000;
  const auto pass = [&](std::size_t rounds, double per_second, std::size_t guests) {
    static double load = 1;
    for (std::size_t i = 0; i < rounds; ++i) rise.add(now += 2, load += 2 * per_second, guests);
  };
  pass(Rise::kRounds - 1, 0.01, 3);
  EXPECT_EQ(rise.per_second(), 0);
  pass(1, 0.01, 3);
  EXPECT_NEAR(rise.per_second(), 0.01, 1e-9);
  pass(1, 50, 4);  // a guest has come
  EXPECT_EQ(rise.per_second(), 0);
  pass(Rise::kRounds, -0.02, 4);
  EXPECT_NEAR(rise.per_second(), -0.02, 1e-9);
}

TEST(Rise, IsNoneWhileTheClockStands) {
  Rise rise;
  for (std::size_t i = 0; i < 2 * Rise::kRounds; ++i) rise.add(5, static_cast<double>(i), 1);
  EXPECT_EQ(rise.per_second(), 0);
}

}  // namespace
}  // namespace godwit::node
