// Overload: move what takes the most expected overload off this host for its cost, until the
// forecast is cool again.
#include <cmath>

#include "balancer/damping.h"
#include "balancer/draft.h"
#include "balancer/forecast.h"
#include "balancer/rules.h"

namespace godwit::balancer {

namespace {

struct Choice {
  std::size_t guest = 0, peer = 0;
  double benefit = 0;
  MoveCost cost;
  double score = 0;
};

// Work that would be lost over the horizon if the guest stayed and will not be after the move, both
// ends counted.
double relief(const Draft& draft, const GuestView& guest, const HostView& peer) {
  const HostView& self = draft.self;
  const double before =
      expected_excess(self.forecast, self.capacity) + expected_excess(peer.forecast, peer.capacity);
  const double after = expected_excess(without(self.forecast, guest.forecast), self.capacity) +
                       expected_excess(with(peer.forecast, guest.forecast), peer.capacity);
  return (before - after) * draft.policy.horizon_seconds;
}

// Awake hosts first; a sleeping one only when no awake one has room.
std::optional<Choice> best_choice(const Draft& draft, Obstacle& obstacle, Choice& nearest) {
  std::optional<Choice> best;
  obstacle = Obstacle::kCoolingDown;
  for (const bool awake : {true, false}) {
    for (std::size_t g = 0; g < draft.guests.size(); ++g) {
      const GuestView& guest = draft.guests[g];
      if (guest.keep_together != 0 || !rested(guest, draft.view.now, draft.policy)) continue;
      if (obstacle == Obstacle::kCoolingDown) obstacle = Obstacle::kNoTarget;
      for (std::size_t p = 0; p < draft.peers.size(); ++p) {
        const HostView& peer = draft.peers[p];
        if (peer.awake != awake || !draft.admits(peer, guest)) continue;
        Choice choice{g, p, relief(draft, guest, peer), cost_between(guest, draft.self, peer), 0};
        choice.score = choice.benefit - draft.policy.margin * choice.cost.work;
        if (obstacle != Obstacle::kNotWorthIt || choice.score > nearest.score) nearest = choice;
        obstacle = Obstacle::kNotWorthIt;
        if (choice.score > 0 && (!best || choice.score > best->score)) best = choice;
      }
    }
    if (best) break;
  }
  return best;
}

// As relief(), of both moves.
double relief(const Draft& draft, const Draft::Exchange& exchange) {
  const HostView& self = draft.self;
  const HostView& peer = draft.peers[exchange.peer];
  const Forecast& ours = draft.guests[exchange.guest].forecast;
  const Forecast& theirs = draft.offer(exchange).forecast;
  const double before =
      expected_excess(self.forecast, self.capacity) + expected_excess(peer.forecast, peer.capacity);
  const double after = expected_excess(with(without(self.forecast, ours), theirs), self.capacity) +
                       expected_excess(with(without(peer.forecast, theirs), ours), peer.capacity);
  return (before - after) * draft.policy.horizon_seconds;
}

// Nothing fits alone: exchange a guest for a smaller one of a peer.
bool swap(Draft& draft) {
  double best = 0, benefit = 0;
  Draft::Exchange found;
  for (std::size_t g = 0; g < draft.guests.size(); ++g) {
    const GuestView& guest = draft.guests[g];
    if (guest.keep_together != 0 || !rested(guest, draft.view.now, draft.policy)) continue;
    for (std::size_t p = 0; p < draft.peers.size(); ++p) {
      for (std::size_t o = 0; o < draft.peers[p].offers.size(); ++o) {
        const Draft::Exchange exchange{g, p, o};
        // An equal one that strays less is no relief, and comes back to even out what strays.
        if (!(draft.offer(exchange).forecast.mean < guest.forecast.mean)) continue;
        if (!draft.exchangeable(exchange)) continue;
        const double gained = relief(draft, exchange);
        const double score = gained - draft.policy.margin * draft.cost(exchange).work;
        if (!(score > best)) continue;
        best = score;
        benefit = gained;
        found = exchange;
      }
    }
  }
  if (!(best > 0)) return false;
  draft.commit(draft.describe(found, Cause::kOverload, benefit), found);
  ++draft.plan;
  return true;
}

}  // namespace

void relieve(Draft& draft) {
  const PolicyConfig& policy = draft.policy;
  for (int moves = 0; moves < policy.moves_per_round; ++moves) {
    if (draft.self.forecast.mean <= policy.cool * draft.self.capacity) return;
    if (draft.self.outgoing >= policy.outgoing_limit) {
      draft.decisions.push_back(draft.stay(Action::kRefuse, Cause::kOverload, Obstacle::kBusy));
      return;
    }
    Obstacle obstacle = Obstacle::kNone;
    Choice nearest;
    const auto choice = best_choice(draft, obstacle, nearest);
    if (!choice) {
      if (obstacle == Obstacle::kNoTarget && swap(draft)) continue;
      draft.decisions.push_back(draft.stay(Action::kRefuse, Cause::kOverload, obstacle,
                                           nearest.benefit, nearest.cost.work));
      return;
    }
    draft.commit(draft.describe(draft.guests[choice->guest], draft.peers[choice->peer],
                                Cause::kOverload, choice->benefit, choice->cost),
                 choice->guest, choice->peer);
    ++draft.plan;
  }
}

}  // namespace godwit::balancer
