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

// Nothing fits alone: exchange a guest for a smaller one of a peer.
bool swap(Draft& draft) {
  if (draft.self.incoming >= draft.policy.incoming_limit) return false;
  double best = 0;
  std::size_t best_guest = 0, best_peer = 0, best_offer = 0;
  Decision decision;
  for (std::size_t g = 0; g < draft.guests.size(); ++g) {
    const GuestView& guest = draft.guests[g];
    if (guest.keep_together != 0 || !rested(guest, draft.view.now, draft.policy)) continue;
    for (std::size_t p = 0; p < draft.peers.size(); ++p) {
      const HostView& peer = draft.peers[p];
      if (peer.outgoing >= draft.policy.outgoing_limit) continue;
      for (std::size_t o = 0; o < peer.offers.size(); ++o) {
        const GuestView& offer = peer.offers[o];
        if (offer.keep_together != 0 || !rested(offer, draft.view.now, draft.policy) ||
            going_back(offer, draft.self.id, draft.view.now, draft.policy)) {
          continue;
        }
        HostView there = peer, here = draft.self;
        charge(there, offer, -1);
        charge(here, guest, -1);
        if (!draft.admits(there, guest) || !allowed(offer, here)) continue;
        const double before = expected_excess(draft.self.forecast, here.capacity) +
                              expected_excess(peer.forecast, peer.capacity);
        charge(there, guest, 1);
        charge(here, offer, 1);
        const double after = expected_excess(here.forecast, here.capacity) +
                             expected_excess(there.forecast, there.capacity);
        MoveCost cost = cost_between(guest, draft.self, peer);
        const MoveCost back = cost_between(offer, peer, draft.self);
        cost.work += back.work;
        cost.seconds += back.seconds;
        const double benefit = (before - after) * draft.policy.horizon_seconds;
        const double score = benefit - draft.policy.margin * cost.work;
        if (!(score > best)) continue;
        best = score;
        best_guest = g, best_peer = p, best_offer = o;
        decision = draft.describe(guest, peer, Cause::kOverload, benefit, cost);
        decision.action = Action::kSwap;
        decision.partner = offer.id;
        decision.source_after = draft.load(here);
        decision.target_after = draft.load(there);
      }
    }
  }
  if (!(best > 0)) return false;
  const GuestView offer = draft.peers[best_peer].offers[best_offer];
  charge(draft.peers[best_peer], offer, -1);
  draft.commit(decision, best_guest, best_peer);
  charge(draft.self, offer, 1);
  ++draft.self.incoming;
  ++draft.peers[best_peer].outgoing;
  ++draft.plan;
  std::erase_if(draft.peers[best_peer].offers,
                [&](const GuestView& other) { return other.id == offer.id; });
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
