// Hosts that become overloaded by one cause at one time must not all ask for the same place at one
// time: each waits a moment of its own before it acts on a new wish to move something. One thread.
#pragma once

#include <random>

namespace godwit::node {

class Turn {
 public:
  static constexpr double kLongest = 3;  // intervals that are waited
  static constexpr double kForgotten =
      3;  // intervals without the wish, after which it is a new one

  /// Something is to be moved, at `now`, seconds: may it be, already? `patience`, from 0 to 1, is
  /// of the longest wait.
  template <typename Random>
  bool come(double now, double interval, double patience, Random& random) {
    if (now - wished_ > kForgotten * interval) {
      turn_ =
          now + interval * patience * std::uniform_real_distribution<double>(0, kLongest)(random);
    }
    wished_ = now;
    return now >= turn_;
  }

 private:
  double wished_ = -1e18;
  double turn_ = 0;
};

}  // namespace godwit::node
