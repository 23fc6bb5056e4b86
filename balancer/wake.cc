// A host that sleeps takes its time to boot. It is woken while the load still grows, if by the time
// it is up this host is expected to be overloaded and nobody who is awake could take anything.
#include <algorithm>

#include "balancer/damping.h"
#include "balancer/draft.h"

namespace godwit::balancer {

double expected_at_boot(const ClusterView& view) {
  double most = 0;
  for (const GuestView& guest : view.guests) most += guest.most;
  const double grown = view.self.forecast.mean + std::max(0.0, view.rise) * view.boot;
  return std::max(view.self.forecast.mean, std::min(grown, most));
}

bool on_the_brink(const ClusterView& view, const PolicyConfig& policy) {
  return view.boot > 0 && expected_at_boot(view) > policy.hot_forecast * view.self.capacity;
}

void wake_ahead(Draft& draft) {
  const auto could_take_something = [&draft](const HostView& peer) {
    return std::any_of(draft.guests.begin(), draft.guests.end(), [&](const GuestView& guest) {
      return guest.keep_together == 0 && rested(guest, draft.view.now, draft.policy) &&
             draft.admits(peer, guest);
    });
  };
  const HostView* sleeper = nullptr;
  for (const HostView& peer : draft.peers) {
    if (sleeper != nullptr && !peer.awake) continue;
    if (!could_take_something(peer)) continue;
    if (peer.awake) return;
    sleeper = &peer;
  }
  if (sleeper == nullptr) return;
  Decision wake = draft.stay(Action::kWake, Cause::kOverload, Obstacle::kNone);
  wake.target = sleeper->id;
  wake.plan = draft.plan;
  draft.decisions.push_back(wake);
}

}  // namespace godwit::balancer
