// Exchanges in the plan under construction: a guest of this host against one that a peer offers.
#include <algorithm>

#include "balancer/damping.h"
#include "balancer/draft.h"
#include "balancer/rules.h"

namespace godwit::balancer {

// A guest is in one place only.
bool Draft::listed_once(GuestId offer) const {
  const auto same = [offer](const GuestView& guest) { return guest.id == offer; };
  auto count = std::count_if(view.guests.begin(), view.guests.end(), same);
  for (const HostView& peer : peers) {
    count += std::count_if(peer.offers.begin(), peer.offers.end(), same);
  }
  return count == 1;
}

bool Draft::exchangeable(const Exchange& exchange) const {
  const GuestView& ours = guests[exchange.guest];
  const GuestView& theirs = offer(exchange);
  const HostView& peer = peers[exchange.peer];
  if (self.incoming >= policy.incoming_limit || self.outgoing >= policy.outgoing_limit ||
      peer.outgoing >= policy.outgoing_limit || theirs.keep_together != 0 ||
      !rested(theirs, view.now, policy) || going_back(theirs, self.id, view.now, policy)) {
    return false;
  }
  HostView there = peer, here = self;
  charge(there, theirs, -1);
  charge(here, ours, -1);
  return admits(there, ours) && allowed(theirs, here) && listed_once(theirs.id);
}

MoveCost Draft::cost(const Exchange& exchange) const {
  const HostView& peer = peers[exchange.peer];
  MoveCost cost = cost_between(guests[exchange.guest], self, peer);
  const MoveCost back = cost_between(offer(exchange), peer, self);
  cost.work += back.work;
  cost.seconds += back.seconds;
  return cost;
}

Decision Draft::describe(const Exchange& exchange, Cause cause, double benefit) const {
  const HostView& peer = peers[exchange.peer];
  Decision decision = describe(guests[exchange.guest], peer, cause, benefit, this->cost(exchange));
  decision.action = Action::kSwap;
  decision.partner = offer(exchange).id;
  decision.source_after += offer(exchange).forecast.mean / self.capacity;
  decision.target_after -= offer(exchange).forecast.mean / peer.capacity;
  return decision;
}

void Draft::commit(const Decision& decision, const Exchange& exchange) {
  HostView& peer = peers[exchange.peer];
  const GuestView theirs = offer(exchange);
  charge(peer, theirs, -1);
  commit(decision, exchange.guest, exchange.peer);
  charge(self, theirs, 1);
  ++self.incoming;
  ++peer.outgoing;
  peer.offers.erase(peer.offers.begin() + static_cast<std::ptrdiff_t>(exchange.offer));
}

}  // namespace godwit::balancer
