// How fast a load grows: over a full window of rounds in which the same guests made it. One thread.
#pragma once

#include <cstddef>
#include <deque>
#include <utility>

namespace godwit::node {

class Rise {
 public:
  static constexpr std::size_t kRounds = 60;

  /// `guests`: with another number of them the load is another one.
  void add(double now, double load, std::size_t guests) {
    if (guests != guests_) samples_.clear();
    guests_ = guests;
    samples_.emplace_back(now, load);
    if (samples_.size() > kRounds) samples_.pop_front();
  }
  /// Load a second; 0 until it can be told. Negative when it falls.
  double per_second() const {
    if (samples_.size() < kRounds) return 0;
    const auto& [first, then] = samples_.front();
    const auto& [last, now] = samples_.back();
    return last > first ? (now - then) / (last - first) : 0;
  }

 private:
  std::deque<std::pair<double, double>> samples_;
  std::size_t guests_ = 0;
};

}  // namespace godwit::node
