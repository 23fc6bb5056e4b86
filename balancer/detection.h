// Is a host overloaded for good? k of the last n samples say so *and* the forecast agrees;
// hysteresis until the forecast has fallen below the lower mark. One per host, fed every sample.
#pragma once

#include <cstdint>

#include "balancer/policy.h"
#include "balancer/view.h"

namespace godwit::balancer {

class OverloadDetector {
 public:
  // `demand` is the last sample. Returns whether the host is hot.
  bool add(double demand, const Forecast& forecast, double capacity, const PolicyConfig& policy);
  bool hot() const { return hot_; }

 private:
  std::uint64_t above_ = 0;  // bit 0 is the newest sample
  bool hot_ = false;
};

}  // namespace godwit::balancer
