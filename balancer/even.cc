// Balance: move the guest that takes the most squared load off the pair of hosts for as long as the
// load is expected to last, as long as that is worth its cost.
#include <cmath>

#include "balancer/damping.h"
#include "balancer/draft.h"
#include "balancer/rules.h"

namespace godwit::balancer {

namespace {

double square(double x) { return x * x; }

// Squared forecast load, weighted with the hosts' capacity, taken off the pair by moving `amount`
// of demand. Unweighted it would be least where large hosts are loaded more than small ones.
double gain(const HostView& source, const HostView& target, double amount) {
  const double from = source.forecast.mean / source.capacity;
  const double to = target.forecast.mean / target.capacity;
  return source.capacity * (square(from) - square(from - amount / source.capacity)) +
         target.capacity * (square(to) - square(to + amount / target.capacity));
}

double mean_load(const Draft& draft) {
  double demand = draft.self.forecast.mean, capacity = draft.self.capacity;
  for (const HostView& peer : draft.peers) {
    if (!peer.alive || peer.closed) continue;
    demand += peer.forecast.mean;
    capacity += peer.capacity;
  }
  return demand / capacity;
}

}  // namespace

void even_out(Draft& draft) {
  const PolicyConfig& policy = draft.policy;
  const double middle = mean_load(draft);
  for (int moves = 0; moves < policy.moves_per_round; ++moves) {
    const double load = draft.load(draft.self);
    if (!(load > middle + policy.deadband)) return;
    if (draft.self.outgoing >= policy.outgoing_limit) {
      draft.decisions.push_back(draft.stay(Action::kStay, Cause::kImbalance, Obstacle::kBusy));
      return;
    }
    double best = 0;
    std::size_t best_guest = 0, best_peer = 0;
    Decision decision, nearest = draft.stay(Action::kStay, Cause::kImbalance, Obstacle::kNoTarget);
    for (std::size_t g = 0; g < draft.guests.size(); ++g) {
      const GuestView& guest = draft.guests[g];
      if (guest.keep_together != 0 || !rested(guest, draft.view.now, policy)) continue;
      for (std::size_t p = 0; p < draft.peers.size(); ++p) {
        const HostView& peer = draft.peers[p];
        if (draft.load(peer) >= load || !draft.admits(peer, guest)) continue;
        const double benefit = gain(draft.self, peer, guest.forecast.mean) *
                               policy.work_per_imbalance * policy.horizon_seconds;
        const MoveCost cost = cost_between(guest, draft.self, peer);
        const double score = benefit - policy.margin * cost.work;
        if (nearest.obstacle == Obstacle::kNoTarget || benefit > nearest.benefit) {
          nearest = draft.stay(Action::kStay, Cause::kImbalance, Obstacle::kNotWorthIt, benefit,
                               cost.work);
        }
        if (!(score > best)) continue;
        best = score;
        best_guest = g, best_peer = p;
        decision = draft.describe(guest, peer, Cause::kImbalance, benefit, cost);
      }
    }
    if (!(best > 0)) {
      draft.decisions.push_back(nearest);
      return;
    }
    draft.commit(decision, best_guest, best_peer);
    ++draft.plan;
  }
}

}  // namespace godwit::balancer
