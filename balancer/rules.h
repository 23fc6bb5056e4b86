// Hard rules: what no score can outweigh.
#pragma once

#include "balancer/policy.h"
#include "balancer/view.h"

namespace godwit::balancer {

// Alive, open, capable, no conflict of groups, memory for it. `self_group` guests that stay behind are the caller's
// concern: a guest with keep_together is only moved when its host is emptied.
bool allowed(const GuestView& guest, const HostView& target);

// Forecast mean + confidence x deviation within the target's threshold, and the guest within one core's speed.
bool has_room(const Forecast& load, const HostView& target, const PolicyConfig& policy);

Forecast with(const Forecast& load, const Forecast& guest);
Forecast without(const Forecast& load, const Forecast& guest);

// Charges an arrival (or, with -1, a departure) to a host's figures.
void charge(HostView& host, const GuestView& guest, double sign);

}  // namespace godwit::balancer
