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
double slack(const HostView& peer, const Forecast& arrival, const PolicyConfig& policy) {
  const Forecast load = with(peer.forecast, arrival);
  return policy.fill -
         (load.mean + policy.confidence * std::sqrt(std::max(0.0, load.variance))) / peer.capacity;
}

// Guests that go together: the first `count` of the draft.
bool admits_all(const Draft& draft, const HostView& peer, std::size_t count) {
  if (count == 1) return draft.admits(peer, draft.guests.front());
  HostView trial = peer;
  for (std::size_t i = 0; i < count; ++i) {
    if (!draft.admits(trial, draft.guests[i])) return false;
    charge(trial, draft.guests[i], 1);
    ++trial.incoming;
  }
  return true;
}

std::size_t tightest(const Draft& draft, const HostView& source, std::size_t count, Cause cause) {
  Forecast arrival = draft.guests.front().forecast;
  for (std::size_t i = 1; i < count; ++i) arrival = with(arrival, draft.guests[i].forecast);
  std::size_t found = draft.peers.size();
  double best = std::numeric_limits<double>::max();
  for (std::size_t p = 0; p < draft.peers.size(); ++p) {
    const HostView& peer = draft.peers[p];
    if (!admits_all(draft, peer, count)) continue;
    // Not so full that it would be relieved of them again.
    if (cause == Cause::kConsolidation &&
        with(peer.forecast, arrival).mean > draft.policy.hot_forecast * peer.capacity) {
      continue;
    }
    if (cause == Cause::kConsolidation && (!peer.awake || !outranks(peer, source))) continue;
    // A drain spreads: the emptiest awake host, a sleeping one last.
    const double score = cause == Cause::kDrain
                             ? (peer.awake ? 0.0 : 1e6) - slack(peer, arrival, draft.policy)
                             : slack(peer, arrival, draft.policy);
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

// The largest first; those that must stay together are placed as one.
void sort_guests(Draft& draft) {
  std::stable_sort(draft.guests.begin(), draft.guests.end(),
                   [](const GuestView& a, const GuestView& b) {
                     return a.forecast.mean + std::sqrt(a.forecast.variance) >
                            b.forecast.mean + std::sqrt(b.forecast.variance);
                   });
}

// Brings the group of the first guest to the front; its size.
std::size_t gather_group(Draft& draft) {
  const std::uint32_t group = draft.guests.front().keep_together;
  if (group == 0) return 1;
  const auto end = std::stable_partition(
      draft.guests.begin(), draft.guests.end(),
      [group](const GuestView& guest) { return guest.keep_together == group; });
  return static_cast<std::size_t>(end - draft.guests.begin());
}

// What a plan does to the targets.
struct Effect {
  double watts = 0, excess = 0;
};

void send(Draft& draft, std::size_t count, std::size_t target, Cause cause, Effect& effect) {
  HostView& peer = draft.peers[target];
  const double watts_before = watts(peer);
  const double excess_before = expected_excess(peer.forecast, peer.capacity);
  for (std::size_t i = 0; i < count; ++i) {
    const GuestView& guest = draft.guests.front();
    const MoveCost move = cost_between(guest, draft.self, peer);
    draft.commit(draft.describe(guest, peer, cause, 0, move), 0, target);
  }
  effect.watts += watts(peer) - watts_before;
  effect.excess += expected_excess(peer.forecast, peer.capacity) - excess_before;
}

}  // namespace

void empty_host(Draft& draft, Cause cause) {
  const ClusterView& view = draft.view;
  const PolicyConfig& policy = draft.policy;
  const bool drain = cause == Cause::kDrain;
  const HostView source = draft.self;
  const auto refuse = [&](Obstacle obstacle, GuestId guest, double benefit = 0, double cost = 0) {
    draft.self = source;  // nothing of the plan is done
    draft.decisions = {
        draft.stay(drain ? Action::kRefuse : Action::kStay, cause, obstacle, benefit, cost)};
    draft.decisions[0].guest = guest;
  };
  for (const GuestView& guest : draft.guests) {
    if (guest.moving) return refuse(Obstacle::kBusy, guest.id);
    if (guest.pinned) return refuse(Obstacle::kPinned, guest.id);
    if (!drain && !rested(guest, view.now, policy)) {
      return refuse(Obstacle::kCoolingDown, guest.id);
    }
  }
  sort_guests(draft);
  Effect effect;
  while (!draft.guests.empty()) {
    const std::size_t count = gather_group(draft);
    if (!drain && draft.self.outgoing + static_cast<int>(count) > policy.outgoing_limit) {
      return refuse(Obstacle::kBusy, 0);
    }
    const std::size_t peer = tightest(draft, source, count, cause);
    if (peer == draft.peers.size()) {
      return refuse(Obstacle::kNoTarget, draft.guests.front().id);
    }
    send(draft, count, peer, cause, effect);
  }
  if (drain) return;
  double benefit = (watts(source) - effect.watts) * policy.hold_seconds * policy.work_per_joule;
  double cost = 0;
  for (const Decision& decision : draft.decisions) cost += decision.cost;
  // Overload that comes is a cost, overload that goes a benefit.
  const double excess =
      (effect.excess - expected_excess(source.forecast, source.capacity)) * policy.horizon_seconds;
  (excess > 0 ? cost : benefit) += std::abs(excess);
  if (!(benefit > policy.margin * cost)) return refuse(Obstacle::kNotWorthIt, 0, benefit, cost);
  // The plan pays as a whole; each move is recorded with its share.
  const auto moves = static_cast<double>(draft.decisions.size());
  for (Decision& decision : draft.decisions) {
    decision.benefit = benefit / moves;
    if (excess > 0) decision.cost += excess / moves;
  }
}

}  // namespace godwit::balancer
