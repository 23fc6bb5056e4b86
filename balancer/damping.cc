#include "balancer/damping.h"

#include <algorithm>

namespace godwit::balancer {

double cooldown(const GuestView& guest, const PolicyConfig& policy) {
  const unsigned doublings = std::min(6u, guest.recent_moves > 0 ? guest.recent_moves - 1 : 0);
  return policy.cooldown_seconds * static_cast<double>(1u << doublings);
}

bool rested(const GuestView& guest, double now, const PolicyConfig& policy) {
  return !guest.pinned && !guest.moving && now - guest.last_move >= cooldown(guest, policy);
}

bool going_back(const GuestView& guest, HostId target, double now, const PolicyConfig& policy) {
  return guest.left == target && now - guest.last_move < 4 * cooldown(guest, policy);
}

double patience(const Decision& decision, double capacity, const PolicyConfig& policy) {
  if (decision.cause != Cause::kImbalance) return 1;
  const double least = policy.deadband * policy.deadband / 2 * policy.work_per_imbalance *
                       policy.horizon_seconds * capacity;
  return least / std::max(least, gain_each(decision));
}

}  // namespace godwit::balancer
