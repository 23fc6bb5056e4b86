// What keeps guests from ping-pong: an exponential cool-down per guest, and no way back without a
// new cause.
#pragma once

#include "balancer/decision.h"
#include "balancer/policy.h"
#include "balancer/view.h"

namespace godwit::balancer {

// Seconds a guest must rest after its last move: doubles with every recent move, at most 64-fold.
double cooldown(const GuestView& guest, const PolicyConfig& policy);

// May the guest be considered at all: not pinned, not moving, rested.
bool rested(const GuestView& guest, double now, const PolicyConfig& policy);

// The host it left last is no target until four cool-downs have passed.
bool going_back(const GuestView& guest, HostId target, double now, const PolicyConfig& policy);

// How long a host waits before it acts, as a part of the longest wait: of those that would even out
// the load, the one with the most to gain acts first, and the others look at what is left to do.
// `capacity` is that of a host.
double patience(const Decision& decision, double capacity, const PolicyConfig& policy);

}  // namespace godwit::balancer
