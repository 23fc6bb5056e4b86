// Balance: move the guest that takes the most squared deviation off the pair of hosts for as long
// as the load is expected to last, as long as that is worth its cost and worth one of few moves.
#include <algorithm>
#include <cmath>

#include "balancer/damping.h"
#include "balancer/draft.h"
#include "balancer/rules.h"

namespace godwit::balancer {

namespace {

double square(double x) { return x * x; }

// How uneven the loads of this host and the asked peers are: squared deviation from their mean, of
// the forecast and, by `sample_share`, of the newest sample.
class Imbalance {
 public:
  explicit Imbalance(const Draft& draft)
      : share_(draft.policy.sample_share), spread_((1 - share_) * draft.policy.spread_weight) {
    double forecast = 0, demand = 0, hosts = 0;
    const auto each = [&](const auto& visit) {
      visit(draft.self);
      for (const HostView& peer : draft.peers) {
        if (peer.alive && !peer.closed) visit(peer);
      }
    };
    each([&](const HostView& host) {
      ++hosts;
      capacity_ += host.capacity;
      forecast += host.forecast.mean;
      demand += host.demand;
    });
    forecast_ = forecast / capacity_;
    demand_ = demand / capacity_;
    capacity_ /= hosts;
    each([&](const HostView& host) { deviation_ += of(host, 0, 0) / hosts; });
    deviation_ = std::sqrt(deviation_);
  }

  double capacity() const { return capacity_; }    // of a host, on average
  double deviation() const { return deviation_; }  // standard deviation of the hosts' loads
  bool above(const HostView& host) const {
    return host.forecast.mean > forecast_ * host.capacity || host.demand > demand_ * host.capacity;
  }

  // Squared deviation taken off the pair. What strays from a guest's forecast strays less of a
  // larger host.
  double taken_off(const HostView& source, const HostView& target, const GuestView& guest) const {
    return of(source, 0, 0) + of(target, 0, 0) - of(source, -guest.forecast.mean, -guest.demand) -
           of(target, guest.forecast.mean, guest.demand) +
           spread_ * guest.forecast.variance *
               (1 / square(source.capacity) - 1 / square(target.capacity));
  }

 private:
  double of(const HostView& host, double forecast, double demand) const {
    return (1 - share_) * square((host.forecast.mean + forecast) / host.capacity - forecast_) +
           share_ * square((host.demand + demand) / host.capacity - demand_);
  }

  double share_, spread_;
  double forecast_ = 0, demand_ = 0;  // mean loads
  double capacity_ = 0;
  double deviation_ = 0;
};

}  // namespace

void even_out(Draft& draft) {
  const PolicyConfig& policy = draft.policy;
  const Imbalance imbalance(draft);
  // Moves are few, so each has to count: the deviation is a root, which the same square lowers less
  // where it is large.
  const double least = policy.deadband * std::max(imbalance.deviation(), policy.deadband / 2);
  const double worth = imbalance.capacity() * policy.work_per_imbalance * policy.horizon_seconds;
  for (int moves = 0; moves < policy.moves_per_round; ++moves) {
    if (!imbalance.above(draft.self)) return;
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
        const double taken = imbalance.taken_off(draft.self, peer, guest);
        const double benefit = taken * worth;
        if (!(taken > least) || (benefit <= best && benefit <= nearest.benefit)) continue;
        if (!draft.admits(peer, guest)) continue;
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
