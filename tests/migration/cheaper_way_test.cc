#include "migration/cheaper_way.h"

#include <gtest/gtest.h>

namespace godwit::migration {
namespace {

/// How often each way is gone in `turns`.
std::array<int, 2> go(CheaperWay& choice, int turns, std::array<double, 2> costs) {
  std::array<int, 2> gone{};
  for (int i = 0; i < turns; ++i) {
    const int way = choice.next();
    ++gone[static_cast<std::size_t>(way)];
    choice.cost(way, costs[static_cast<std::size_t>(way)]);
  }
  return gone;
}

TEST(CheaperWay, TriesBothThenGoesByTheCheaper) {
  for (const int cheap : {0, 1}) {
    CheaperWay choice;
    std::array<double, 2> costs{2, 2};
    costs[static_cast<std::size_t>(cheap)] = 1;
    EXPECT_EQ(go(choice, 6, costs), (std::array{3, 3}));
    EXPECT_GE(go(choice, 100, costs)[static_cast<std::size_t>(cheap)], 95);
  }
}

TEST(CheaperWay, NoticesThatTheOtherHasBecomeCheaper) {
  CheaperWay choice;
  go(choice, 100, {1, 2});
  go(choice, 400, {3, 2});
  EXPECT_GE(go(choice, 100, {3, 2})[1], 90);
}

}  // namespace
}  // namespace godwit::migration
