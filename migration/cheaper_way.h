// Which of two ways of doing the same costs less, by trying both. Pure; for one thread.
#pragma once

#include <algorithm>
#include <array>

namespace godwit::migration {

class CheaperWay {
 public:
  /// The way to go by now, 0 or 1: each in turn at first, then the cheaper one, and now and then
  /// the other, whose cost may have changed.
  int next() {
    ++turns_;
    if (std::min(ways_[0].turns, ways_[1].turns) < kTries) return ways_[0].turns > ways_[1].turns;
    const int cheaper = ways_[1].cost < ways_[0].cost;
    return turns_ % kTryAgain == 0 ? 1 - cheaper : cheaper;
  }
  /// What it has cost just now, in any unit, for the same amount of work.
  void cost(int way, double each) {
    Way& tried = ways_[static_cast<std::size_t>(way)];
    tried.turns = std::min(tried.turns + 1, kRemembered);
    tried.cost += (each - tried.cost) / tried.turns;
  }

 private:
  static constexpr int kTries = 3, kTryAgain = 32, kRemembered = 8;
  struct Way {
    int turns = 0;
    double cost = 0;  // average of the last
  };
  std::array<Way, 2> ways_;
  unsigned turns_ = 0;
};

}  // namespace godwit::migration
