// Hard rules: what no score can outweigh.
#pragma once

#include "balancer/policy.h"
#include "balancer/view.h"

namespace godwit::balancer {

// Figures that can be reckoned with: finite, not negative, below any real machine's, a capacity.
// Peers' answers may be anything.
bool sane(const Forecast& forecast);
bool sane(const GuestView& guest);
bool sane(const HostView& host);

// MB that a guest takes up at its host.
double room_of(const GuestView& guest);

enum class Rule { kNone, kDown, kClosed, kNeeds, kMemory, kApart, kCore };

// What keeps the guest off the host: it is down, closed, lacks a capability or the memory for it,
// has one of its group, or no core as fast.
Rule broken_rule(const GuestView& guest, const HostView& target);
inline bool allowed(const GuestView& guest, const HostView& target) {
  return broken_rule(guest, target) == Rule::kNone;
}

// Forecast mean + confidence x deviation within the target's threshold, and the guest within one
// core's speed.
bool has_room(const Forecast& load, const HostView& target, const PolicyConfig& policy);

Forecast with(const Forecast& load, const Forecast& guest);
Forecast without(const Forecast& load, const Forecast& guest);

// Charges an arrival (or, with -1, a departure) to a host's figures.
void charge(HostView& host, const GuestView& guest, double sign);

}  // namespace godwit::balancer
