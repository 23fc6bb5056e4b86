#include "balancer/decide.h"

#include <algorithm>

#include "balancer/damping.h"
#include "balancer/draft.h"
#include "balancer/rules.h"

namespace godwit::balancer {

namespace {

bool may_empty(const ClusterView& view, const PolicyConfig& policy) {
  const HostView& self = view.self;
  return policy.goal == Goal::kConsolidate && !view.guests.empty() && self.incoming == 0 &&
         view.now - self.last_arrival >= policy.settle_seconds &&
         self.forecast.mean < policy.empty_below * self.capacity;
}

}  // namespace

Draft::Draft(const ClusterView& from, const PolicyConfig& settings)
    : view(from), policy(settings), self(from.self), guests(from.guests) {
  peers.reserve(from.peers.size());
  for (const HostView& peer : from.peers) {
    if (sane(peer)) peers.push_back(peer);  // a lying peer is no target
  }
  for (GuestView& guest : guests) {
    if (sane(guest)) continue;
    GuestView still;  // measured wrongly: it stays until it is measured well
    still.id = guest.id;
    still.pinned = true;
    guest = still;
  }
}

MoveCost cost_between(const GuestView& guest, const HostView& source, const HostView& target) {
  double link = std::min(source.link, target.link);
  if (!(link > 0)) link = 1;  // unknown: a slow link makes moves dear, not free
  return predict_move(guest, link);
}

bool Draft::admits(const HostView& peer, const GuestView& guest) const {
  return peer.id != self.id && peer.incoming < policy.incoming_limit && allowed(guest, peer) &&
         !going_back(guest, peer.id, view.now, policy) &&
         has_room(with(peer.forecast, guest.forecast), peer, policy);
}

Decision Draft::describe(const GuestView& guest, const HostView& peer, Cause cause, double benefit,
                         const MoveCost& cost) const {
  Decision decision;
  decision.action = Action::kMove;
  decision.cause = cause;
  decision.guest = guest.id;
  decision.source = self.id;
  decision.target = peer.id;
  decision.plan = plan;
  decision.benefit = benefit;
  decision.cost = cost.work;
  decision.seconds = cost.seconds;
  decision.downtime = cost.downtime;
  decision.source_before = load(self);
  decision.source_after = without(self.forecast, guest.forecast).mean / self.capacity;
  decision.target_before = load(peer);
  decision.target_after = with(peer.forecast, guest.forecast).mean / peer.capacity;
  return decision;
}

Decision Draft::stay(Action action, Cause cause, Obstacle obstacle, double benefit,
                     double cost) const {
  Decision decision;
  decision.action = action;
  decision.cause = cause;
  decision.obstacle = obstacle;
  decision.source = decision.target = self.id;
  decision.benefit = benefit;
  decision.cost = cost;
  decision.source_before = decision.source_after = load(self);
  return decision;
}

void Draft::commit(const Decision& decision, std::size_t guest, std::size_t peer) {
  if (!peers[peer].awake) {
    Decision wake = stay(Action::kWake, decision.cause, Obstacle::kNone);
    wake.target = peers[peer].id;
    wake.plan = decision.plan;
    decisions.push_back(wake);
    peers[peer].awake = true;
  }
  decisions.push_back(decision);
  charge(peers[peer], guests[guest], 1);
  charge(self, guests[guest], -1);
  ++peers[peer].incoming;
  ++self.outgoing;
  guests.erase(guests.begin() + static_cast<std::ptrdiff_t>(guest));
}

bool wants_peers(const ClusterView& view, const PolicyConfig& policy) {
  if (!sane(view.self) || view.guests.empty()) return false;
  return view.hot || view.drain || policy.goal == Goal::kBalance || may_empty(view, policy);
}

std::vector<Decision> decide(const ClusterView& view, const PolicyConfig& policy) {
  if (!sane(view.self) || view.guests.empty()) {
    Decision decision;
    decision.source = decision.target = view.self.id;
    decision.obstacle = Obstacle::kBalanced;
    return {decision};
  }
  Draft draft(view, policy);
  if (view.drain) {
    empty_host(draft, Cause::kDrain);
  } else if (view.hot) {
    relieve(draft);
  } else if (may_empty(view, policy)) {
    empty_host(draft, Cause::kConsolidation);
  } else if (policy.goal == Goal::kBalance) {
    even_out(draft);
  }
  if (draft.decisions.empty()) {
    const bool brief = view.self.demand > policy.hot * view.self.capacity;
    draft.decisions.push_back(draft.stay(Action::kStay, Cause::kNone,
                                         brief ? Obstacle::kNotPersistent : Obstacle::kBalanced));
  }
  return std::move(draft.decisions);
}

}  // namespace godwit::balancer
