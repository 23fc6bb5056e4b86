// Emptying a host: for consolidation when the energy saved is worth the moves, for a drain in any
// case. All guests or none, over many targets, checked to fit before the first move.
#include <algorithm>
#include <cmath>
#include <limits>

#include "balancer/damping.h"
#include "balancer/draft.h"
#include "balancer/forecast.h"
#include "balancer/rules.h"

namespace godwit::balancer {

namespace {

double watts_per_capacity(const HostView& host) { return host.power.watts[10] / host.capacity; }

// A strict order of who empties into whom, so that two hosts never empty into each other: first the
// more efficient, then the fuller, then the lower id.
bool outranks(const HostView& peer, const HostView& self) {
  const double difference = watts_per_capacity(peer) - watts_per_capacity(self);
  if (std::abs(difference) > 1e-9) return difference < 0;
  const double load = peer.forecast.mean / peer.capacity - self.forecast.mean / self.capacity;
  if (load != 0) return load > 0;
  return peer.id < self.id;
}

// Room left after the arrival, as a fraction of capacity: the tightest fit keeps room for large
// guests elsewhere.
double slack(const HostView& peer, const GuestView& guest, const PolicyConfig& policy) {
  const Forecast load = with(peer.forecast, guest.forecast);
  return policy.fill -
         (load.mean + policy.confidence * std::sqrt(std::max(0.0, load.variance))) / peer.capacity;
}

std::size_t tightest(const Draft& draft, const HostView& source, const GuestView& guest,
                     Cause cause) {
  std::size_t found = draft.peers.size();
  double best = std::numeric_limits<double>::max();
  for (std::size_t p = 0; p < draft.peers.size(); ++p) {
    const HostView& peer = draft.peers[p];
    if (!draft.admits(peer, guest)) continue;
    if (cause == Cause::kConsolidation && (!peer.awake || !outranks(peer, source))) continue;
    // A drain spreads: the emptiest awake host, a sleeping one last.
    const double score = cause == Cause::kDrain
                             ? (peer.awake ? 0.0 : 1e6) - slack(peer, guest, draft.policy)
                             : slack(peer, guest, draft.policy);
    if (score < best) {
      best = score;
      found = p;
    }
  }
  return found;
}

double watts(const HostView& host) {
  return host.guests == 0 ? 0 : host.power.at(host.forecast.mean / host.capacity);
}

}  // namespace

void empty_host(Draft& draft, Cause cause) {
  const ClusterView& view = draft.view;
  const PolicyConfig& policy = draft.policy;
  const bool drain = cause == Cause::kDrain;
  const auto refuse = [&](Obstacle obstacle, double benefit = 0, double cost = 0) {
    draft.decisions = {
        draft.stay(drain ? Action::kRefuse : Action::kStay, cause, obstacle, benefit, cost)};
  };
  for (const GuestView& guest : draft.guests) {
    if (guest.moving) return refuse(Obstacle::kBusy);
    if (guest.pinned) return refuse(Obstacle::kNoTarget);
    if (!drain && !rested(guest, view.now, policy)) return refuse(Obstacle::kCoolingDown);
  }
  std::stable_sort(draft.guests.begin(), draft.guests.end(),
                   [](const GuestView& a, const GuestView& b) {
                     return a.forecast.mean + std::sqrt(a.forecast.variance) >
                            b.forecast.mean + std::sqrt(b.forecast.variance);
                   });
  const HostView source = draft.self;
  double cost = 0, extra_watts = 0, extra_excess = 0;
  while (!draft.guests.empty()) {
    if (draft.self.outgoing >= policy.outgoing_limit && !drain) return refuse(Obstacle::kBusy);
    const GuestView guest = draft.guests.front();
    const std::size_t peer = tightest(draft, source, guest, cause);
    if (peer == draft.peers.size()) return refuse(Obstacle::kNoTarget);
    const double watts_before = watts(draft.peers[peer]);
    const double excess_before =
        expected_excess(draft.peers[peer].forecast, draft.peers[peer].capacity);
    const MoveCost move = cost_between(guest, draft.self, draft.peers[peer]);
    cost += move.work;
    draft.commit(draft.describe(guest, draft.peers[peer], cause, 0, move), 0, peer);
    extra_watts += watts(draft.peers[peer]) - watts_before;
    extra_excess +=
        expected_excess(draft.peers[peer].forecast, draft.peers[peer].capacity) - excess_before;
  }
  const double joules = (watts(source) - extra_watts) * policy.hold_seconds;
  cost +=
      (extra_excess - expected_excess(source.forecast, source.capacity)) * policy.horizon_seconds;
  const double benefit = joules * policy.work_per_joule;
  if (!drain && !(benefit > policy.margin * cost)) {
    draft.self = source;
    return refuse(Obstacle::kNotWorthIt, benefit, cost);
  }
  for (Decision& decision : draft.decisions) {
    // The plan pays as a whole; each move is recorded with its share.
    decision.benefit = benefit / static_cast<double>(draft.decisions.size());
  }
}

}  // namespace godwit::balancer
