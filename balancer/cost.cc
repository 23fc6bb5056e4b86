#include "balancer/cost.h"

#include <algorithm>

namespace godwit::balancer {

namespace {
// CloudSim's and Voorsluys et al. (2009)'s figure: about a tenth of the guest's CPU while it is
// copied.
constexpr double kSlowdown = 0.1;
constexpr double kTargetDowntime = 0.05;  // seconds left for the last round
constexpr double kFixedDowntime = 0.02;   // seconds: state, switch-over
constexpr int kRounds = 8;
}  // namespace

MoveCost predict_move(const GuestView& guest, double link) {
  MoveCost cost;
  double left = guest.memory;
  for (int round = 0; round < kRounds && left > kTargetDowntime * link; ++round) {
    const double seconds = left / link;
    cost.seconds += seconds;
    const double dirtied = std::min(guest.memory, guest.dirty_rate * seconds);
    if (dirtied >= left && round >= 2) break;
    left = dirtied;
  }
  cost.downtime = left / link + kFixedDowntime;
  cost.seconds += cost.downtime;
  const double demand = std::max(guest.demand, guest.forecast.mean);
  const double slowed = kSlowdown * demand * cost.seconds;
  cost.work = guest.sensitivity * (slowed + demand * cost.downtime) + slowed;
  return cost;
}

}  // namespace godwit::balancer
