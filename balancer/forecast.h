// Smoothing and forecast of one load, sample by sample. A fast and a slow average: what the load is
// now, and what it returns to; plus how far single samples stray. Value type, not thread-safe.
#pragma once

#include <cstdint>

#include "balancer/policy.h"
#include "balancer/view.h"

namespace godwit::balancer {

class LoadEstimator {
 public:
  // `sample` in units of capacity. Not finite or negative samples (a lying peer, a clock jump) are
  // taken as 0.
  void add(double sample, const PolicyConfig& policy);

  // `most` is the guest's limit, for the prior while it was watched little.
  Forecast forecast(double most, const PolicyConfig& policy) const;

  // What it has learnt, which goes with a guest to its next host.
  struct Memory {
    double fast = 0;
    double slow = 0;
    double variance = 0;  // about the fast and slow forecast, one sample ahead
    std::uint32_t samples = 0;
  };
  const Memory& memory() const { return memory_; }
  // False, and nothing is taken, when a figure is not finite, negative, or above what a guest of
  // `most` can have.
  bool remember(const Memory& memory, double most);

 private:
  Memory memory_;
};

// How much demand above `capacity` is to be expected of a normally distributed load, in units of
// capacity.
double expected_excess(const Forecast& load, double capacity);

}  // namespace godwit::balancer
