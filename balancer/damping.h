// What keeps guests from ping-pong: an exponential cool-down per guest, and no way back without a
// new cause.
#pragma once

#include "balancer/policy.h"
#include "balancer/view.h"

namespace godwit::balancer {

// Seconds a guest must rest after its last move: doubles with every recent move, at most 64-fold.
double cooldown(const GuestView& guest, const PolicyConfig& policy);

// May the guest be considered at all: not pinned, not moving, rested.
bool rested(const GuestView& guest, double now, const PolicyConfig& policy);

// The host it left last is no target until four cool-downs have passed.
bool going_back(const GuestView& guest, HostId target, double now, const PolicyConfig& policy);

}  // namespace godwit::balancer
