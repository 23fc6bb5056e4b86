// The balancer: when, which guest, where. Pure: the same view and policy give the same answer, on
// the live node, in the dry run and in the simulator. Chance (which peers were asked, jitter) is
// the caller's.
#pragma once

#include <vector>

#include "balancer/decision.h"
#include "balancer/policy.h"
#include "balancer/view.h"

namespace godwit::balancer {

// Would `decide` look at peers at all? A node that is neither hot nor drained nor a candidate for
// emptying or balancing need not ask any. `view.peers` is not read.
bool wants_peers(const ClusterView& view, const PolicyConfig& policy);

// The load of this host that is expected by the time that a host could be woken, and whether it is
// too much then: whoever is awake and empty had better stay so.
double expected_at_boot(const ClusterView& view);
bool on_the_brink(const ClusterView& view, const PolicyConfig& policy);

// At least one decision; the last may be a stay or refusal with its reason. Moves are ordered;
// those with the same `plan` belong together. Cost grows with guests x peers of this view, not with
// the cluster.
std::vector<Decision> decide(const ClusterView& view, const PolicyConfig& policy);

// A move that somebody else decided, with the figures that `decide` would give: none, but who and
// where, when the guest or the target has none that can be reckoned with.
Decision describe(const ClusterView& view, const PolicyConfig& policy, GuestId guest, HostId target,
                  Cause cause);

}  // namespace godwit::balancer
