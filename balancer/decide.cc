#include "balancer/decide.h"

#include <algorithm>
#include <cmath>
#include <set>

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

// The ids that are listed more than once; nearly always none.
template <class Items>
std::vector<std::uint64_t> repeated(const Items& items) {
  std::vector<std::uint64_t> ids, twice;
  ids.reserve(items.size());
  for (const auto& item : items) ids.push_back(item.id);
  std::sort(ids.begin(), ids.end());
  for (std::size_t i = 1; i < ids.size(); ++i) {
    if (ids[i] == ids[i - 1]) twice.push_back(ids[i]);
  }
  return twice;
}

// Can anything be reckoned with these figures?
bool measured(const ClusterView& view) { return std::isfinite(view.now) && sane(view.self); }

}  // namespace

Draft::Draft(const ClusterView& from, const PolicyConfig& settings)
    : view(from), policy(settings), self(from.self), guests(from.guests) {
  peers.reserve(from.peers.size());
  for (const HostView& peer : from.peers) {
    if (sane(peer) && peer.id != self.id) peers.push_back(peer);  // a lying peer is no target
  }
  if (!repeated(peers).empty()) {  // one host under two addresses is one host
    std::set<HostId> seen;
    std::erase_if(peers, [&](const HostView& peer) { return !seen.insert(peer.id).second; });
  }
  const auto twice = repeated(guests);
  for (GuestView& guest : guests) {
    if (sane(guest) && !std::binary_search(twice.begin(), twice.end(), guest.id)) continue;
    GuestView still;  // measured wrongly: it stays until it is measured well
    still.id = guest.id;
    still.pinned = true;
    guest = still;
  }
}

MoveCost cost_between(const GuestView& guest, const HostView& source, const HostView& target) {
  double link = target.path > 0 ? target.path : std::min(source.link, target.link);
  if (!(link > 0)) link = 1;  // unknown: a slow link makes moves dear, not free
  // At least 1 kB/s: the prediction stays finite.
  MoveCost cost = predict_move(guest, std::max(link, 0.001));
  cost.seconds += target.setup;
  return cost;
}

bool Draft::admits(const HostView& peer, const GuestView& guest) const {
  return allowed(guest, peer) &&
         (view.drain || (peer.incoming < policy.incoming_limit &&
                         !going_back(guest, peer.id, view.now, policy))) &&
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
  if (!measured(view) || view.guests.empty()) return false;
  return view.hot || view.drain || policy.goal == Goal::kBalance || on_the_brink(view, policy) ||
         may_empty(view, policy);
}

std::vector<Decision> decide(const ClusterView& view, const PolicyConfig& policy) {
  if (!measured(view) || view.guests.empty()) {
    Decision decision;
    decision.source = decision.target = view.self.id;
    decision.obstacle = measured(view) ? Obstacle::kBalanced : Obstacle::kNonsense;
    if (measured(view)) {
      const double load = view.self.forecast.mean / view.self.capacity;
      decision.source_before = decision.source_after = load;
    } else if (view.drain) {
      decision.action = Action::kRefuse;
      decision.cause = Cause::kDrain;
    }
    return {decision};
  }
  Draft draft(view, policy);
  if (!view.drain && !view.hot && on_the_brink(view, policy)) wake_ahead(draft);
  if (!draft.decisions.empty()) return std::move(draft.decisions);
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

Decision describe(const ClusterView& view, const PolicyConfig& policy, GuestId guest, HostId target,
                  Cause cause) {
  const Draft draft(view, policy);
  const auto moved = std::find_if(draft.guests.begin(), draft.guests.end(),
                                  [&](const GuestView& one) { return one.id == guest; });
  const auto peer = std::find_if(draft.peers.begin(), draft.peers.end(),
                                 [&](const HostView& one) { return one.id == target; });
  if (measured(view) && moved != draft.guests.end() && peer != draft.peers.end()) {
    return draft.describe(*moved, *peer, cause, 0, cost_between(*moved, draft.self, *peer));
  }
  Decision decision;
  decision.action = Action::kMove;
  decision.cause = cause;
  decision.guest = guest;
  decision.source = view.self.id;
  decision.target = target;
  return decision;
}

}  // namespace godwit::balancer
