// What a move costs: how long, how long paused, how much work is lost on the way. Pre-copy over a
// link of known rate.
#pragma once

#include "balancer/view.h"

namespace godwit::balancer {

struct MoveCost {
  double seconds = 0;
  double downtime = 0;  // seconds
  double work = 0;      // CPU capacity x seconds lost by the guest and taken from the target
};

// `link` in MB/s, must be above 0. A guest that dirties faster than the link copies is throttled or
// post-copied: it is charged as if three rounds were all it gets.
MoveCost predict_move(const GuestView& guest, double link);

}  // namespace godwit::balancer
