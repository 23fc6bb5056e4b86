#include "node/daemon/turn.h"

#include <gtest/gtest.h>

#include <set>

namespace godwit::node {
namespace {

TEST(Turn, ComesAfterAMomentThatIsEachHostsOwnAndStays) {
  std::set<int> waited;
  for (unsigned host = 0; host < 50; ++host) {
    std::mt19937_64 random(host);
    Turn turn;
    int rounds = 0;
    while (!turn.come(rounds * 1.0, 1.0, 1.0, random)) ++rounds;
    EXPECT_LE(rounds, 3);
    waited.insert(rounds);
    for (int later = rounds; later < rounds + 10; ++later) {
      EXPECT_TRUE(turn.come(later * 1.0, 1.0, 1.0, random));
    }
  }
  EXPECT_GE(waited.size(), 3u);
}

TEST(Turn, ComesAtOnceWhereThereIsNoPatience) {
  std::mt19937_64 random(1);
  Turn turn;
  EXPECT_TRUE(turn.come(0, 1.0, 0, random));
}

TEST(Turn, OfAWishThatWasGoneIsANewOne) {
  std::mt19937_64 random(1);
  Turn turn;
  int waited = 0;
  for (int wish = 0; wish < 20; ++wish) {
    const double now = wish * 100.0;
    waited += turn.come(now, 1.0, 1.0, random) ? 0 : 1;
    EXPECT_TRUE(turn.come(now + 3, 1.0, 1.0, random));
  }
  EXPECT_GT(waited, 10);
}

}  // namespace
}  // namespace godwit::node
