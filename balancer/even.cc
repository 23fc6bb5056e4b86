// Balance: move the guest that takes the most squared deviation off the pair of hosts for as long
// as the load is expected to last, or exchange it for one that the peer offers, as long as that is
// worth its cost and worth one or two of few moves.
#include <algorithm>
#include <cmath>

#include "balancer/damping.h"
#include "balancer/draft.h"
#include "balancer/rules.h"

namespace godwit::balancer {

namespace {

double square(double x) { return x * x; }

// What goes from one host to another, in units of capacity.
struct Load {
  double forecast = 0, demand = 0, variance = 0;
};

Load load_of(const GuestView& guest) {
  return {guest.forecast.mean, guest.demand, guest.forecast.variance};
}

Load operator-(const Load& a, const Load& b) {
  return {a.forecast - b.forecast, a.demand - b.demand, a.variance - b.variance};
}

// How uneven the loads of this host and the asked peers are: squared deviation from their mean, of
// the forecast and, by `sample_share`, of the newest sample.
class Imbalance {
 public:
  // How far a host's load is from the mean of all.
  struct Place {
    double forecast = 0, demand = 0;
    double part = 0;  // of the host, that a unit of capacity is
  };

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
    each([&](const HostView& host) { deviation_ += of(place(host)) / hosts; });
    deviation_ = std::sqrt(deviation_);
  }

  double capacity() const { return capacity_; }    // of a host, on average
  double deviation() const { return deviation_; }  // standard deviation of the hosts' loads
  Place place(const HostView& host) const {
    return {host.forecast.mean / host.capacity - forecast_, host.demand / host.capacity - demand_,
            1 / host.capacity};
  }

  // Squared deviation taken off the pair. What strays from a guest's forecast strays less of a
  // larger host.
  double taken_off(const Place& source, const Place& target, const Load& load) const {
    const auto pair = [&](double high, double low, double moved) {
      const double gone = moved * source.part, come = moved * target.part;
      return gone * (2 * high - gone) - come * (2 * low + come);
    };
    return (1 - share_) * pair(source.forecast, target.forecast, load.forecast) +
           share_ * pair(source.demand, target.demand, load.demand) +
           spread_ * load.variance * (square(source.part) - square(target.part));
  }
  // No move between the two takes off more: both on the mean, and all that strays off the smaller.
  double most(const Place& source, const Place& target, double variance) const {
    return of(source) + of(target) +
           spread_ * variance * std::abs(square(source.part) - square(target.part));
  }

 private:
  double of(const Place& place) const {
    return (1 - share_) * square(place.forecast) + share_ * square(place.demand);
  }

  double share_, spread_;
  double forecast_ = 0, demand_ = 0;  // mean loads
  double capacity_ = 0;
  double deviation_ = 0;
};

// The best of all moves and exchanges between this host and the asked peers: by what is gained a
// move, for moves are few.
class Search {
 public:
  Search(const Draft& draft, const Imbalance& imbalance)
      : draft_(draft),
        imbalance_(imbalance),
        here_(imbalance.place(draft.self)),
        // The deviation is a root, which the same square lowers less where it is large.
        least_(draft.policy.deadband * std::max(imbalance.deviation(), draft.policy.deadband / 2)),
        worth_(imbalance.capacity() * draft.policy.work_per_imbalance *
               draft.policy.horizon_seconds),
        nearest_(draft.stay(Action::kStay, Cause::kImbalance, Obstacle::kBalanced)) {
    for (std::size_t g = 0; g < draft.guests.size(); ++g) {
      const GuestView& guest = draft.guests[g];
      erratic_ = std::max(erratic_, guest.forecast.variance);
      if (guest.keep_together == 0 && rested(guest, draft.view.now, draft.policy)) {
        able_.push_back(g);
      }
    }
    for (std::size_t p = 0; p < draft.peers.size(); ++p) look_at(p);
    if (nearest_.obstacle == Obstacle::kBalanced) nearest_.obstacle = in_the_way();
  }

  bool found() const { return score_ > 0; }
  bool swaps() const { return decision_.action == Action::kSwap; }
  const Decision& decision() const { return decision_; }  // when found
  const Draft::Exchange& ends() const { return ends_; }
  const Decision& nearest() const { return nearest_; }  // otherwise: why not

 private:
  void look_at(std::size_t p) {
    const HostView& peer = draft_.peers[p];
    const auto there = imbalance_.place(peer);
    double erratic = erratic_;
    for (const GuestView& offer : peer.offers) {
      erratic = std::max(erratic, offer.forecast.variance);
    }
    const double most = imbalance_.most(here_, there, erratic);
    if (!(most > least_ && most * worth_ > score_)) return;
    // An exchange has to take off twice as much.
    const bool exchange = most > 2 * least_ && most * worth_ > 2 * score_;
    const std::size_t offers = exchange ? peer.offers.size() : 0;
    for (const std::size_t g : able_) {
      const Load ours = load_of(draft_.guests[g]);
      weigh({g, p, 0}, 1, imbalance_.taken_off(here_, there, ours));
      for (std::size_t o = 0; o < offers; ++o) {
        weigh({g, p, o}, 2, imbalance_.taken_off(here_, there, ours - load_of(peer.offers[o])));
      }
    }
  }

  void weigh(const Draft::Exchange& ends, int moves, double taken) {
    const double benefit = taken * worth_, each = benefit / moves;
    if (!(taken > least_ * moves) || (each <= score_ && each <= nearest_.benefit)) return;
    if (!(moves == 1 ? draft_.admits(draft_.peers[ends.peer], draft_.guests[ends.guest])
                     : draft_.exchangeable(ends) && has_room_for(ends))) {
      refused_ = true;
      return;
    }
    const MoveCost cost =
        moves == 1 ? cost_between(draft_.guests[ends.guest], draft_.self, draft_.peers[ends.peer])
                   : draft_.cost(ends);
    const double score = (benefit - draft_.policy.margin * cost.work) / moves;
    if (nearest_.obstacle == Obstacle::kBalanced || each > nearest_.benefit) {
      nearest_ = draft_.stay(Action::kStay, Cause::kImbalance, Obstacle::kNotWorthIt, each,
                             cost.work / moves);
    }
    if (!(score > score_)) return;
    score_ = score;
    ends_ = ends;
    decision_ = moves == 1 ? draft_.describe(draft_.guests[ends.guest], draft_.peers[ends.peer],
                                             Cause::kImbalance, benefit, cost)
                           : draft_.describe(ends, Cause::kImbalance, benefit);
  }

  // Nothing that may move now is worth a move. Is that so of the others, too?
  Obstacle in_the_way() const {
    bool peers = false, refused = refused_, resting = false, pinned = false;
    for (const HostView& peer : draft_.peers) {
      if (!peer.alive || peer.closed) continue;
      peers = true;
      const auto there = imbalance_.place(peer);
      if (!(imbalance_.most(here_, there, erratic_) > least_)) continue;
      for (const GuestView& guest : draft_.guests) {
        if (guest.moving || guest.keep_together != 0 ||
            !(imbalance_.taken_off(here_, there, load_of(guest)) > least_)) {
          continue;
        }
        (!draft_.admits(peer, guest) ? refused : guest.pinned ? pinned : resting) = true;
      }
    }
    if (resting) return Obstacle::kCoolingDown;
    if (pinned) return Obstacle::kPinned;
    return refused || !peers ? Obstacle::kNoTarget : Obstacle::kBalanced;
  }

  // What comes fits here, too, unless more goes.
  bool has_room_for(const Draft::Exchange& ends) const {
    const Forecast& ours = draft_.guests[ends.guest].forecast;
    const Forecast& theirs = draft_.offer(ends).forecast;
    return theirs.mean <= ours.mean ||
           has_room(with(without(draft_.self.forecast, ours), theirs), draft_.self, draft_.policy);
  }

  const Draft& draft_;
  const Imbalance& imbalance_;
  Imbalance::Place here_;
  double least_;                   // squared deviation that a move must take off
  double worth_;                   // of one squared deviation, in work
  std::vector<std::size_t> able_;  // guests that may move
  double erratic_ = 0;             // the largest variance of a guest here
  bool refused_ = false;           // something would help that no peer may take
  double score_ = 0;
  Draft::Exchange ends_;
  Decision decision_, nearest_;
};

}  // namespace

void even_out(Draft& draft) {
  const PolicyConfig& policy = draft.policy;
  const Imbalance imbalance(draft);
  for (int moves = 0; moves < policy.moves_per_round; ++moves) {
    if (draft.self.outgoing >= policy.outgoing_limit) {
      draft.decisions.push_back(draft.stay(Action::kStay, Cause::kImbalance, Obstacle::kBusy));
      return;
    }
    const Search search(draft, imbalance);
    if (!search.found()) {
      draft.decisions.push_back(search.nearest());
      return;
    }
    if (search.swaps()) {
      draft.commit(search.decision(), search.ends());
    } else {
      draft.commit(search.decision(), search.ends().guest, search.ends().peer);
    }
    ++draft.plan;
  }
}

}  // namespace godwit::balancer
