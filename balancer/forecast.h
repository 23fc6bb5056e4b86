// Smoothing and forecast of one load, sample by sample. A fast and a slow average: what the load is
// now, and what it returns to; plus how far single samples stray. Value type, not thread-safe.
#pragma once

#include <cstdint>

#include "balancer/policy.h"
#include "balancer/view.h"

namespace godwit::balancer {

class LoadEstimator {
 public:
  LoadEstimator() = default;
  // Goes on where another left off that had seen `samples` of the same load, at least 1.
  LoadEstimator(const Forecast& forecast, std::uint32_t samples)
      : fast_(forecast.mean),
        slow_(forecast.mean),
        variance_(forecast.variance),
        samples_(samples) {}

  // `sample` in units of capacity. Not finite or negative samples (a lying peer, a clock jump) are
  // taken as 0.
  void add(double sample, const PolicyConfig& policy);

  // `most` is the guest's limit, for the prior while it was watched little.
  Forecast forecast(double most, const PolicyConfig& policy) const;

  std::uint32_t samples() const { return samples_; }

 private:
  double fast_ = 0;
  double slow_ = 0;
  double variance_ = 0;  // about the fast and slow forecast, one sample ahead
  std::uint32_t samples_ = 0;
};

// How much demand above `capacity` is to be expected of a normally distributed load, in units of
// capacity.
double expected_excess(const Forecast& load, double capacity);

}  // namespace godwit::balancer
