// What a host would give in an exchange for a guest of a peer. Pure.
#pragma once

#include <vector>

#include "balancer/policy.h"
#include "balancer/view.h"

namespace godwit::balancer {

// A few of the guests that may move now: the smallest, which fit anywhere, and of the others those
// whose load strays most, which a larger host bears better.
std::vector<GuestView> offers(std::vector<GuestView> guests, double now,
                              const PolicyConfig& policy);

}  // namespace godwit::balancer
