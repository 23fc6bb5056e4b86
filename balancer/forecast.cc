#include "balancer/forecast.h"

#include <algorithm>
#include <cmath>

namespace godwit::balancer {

void LoadEstimator::add(double sample, const PolicyConfig& policy) {
  if (!std::isfinite(sample) || sample < 0) sample = 0;
  if (samples_ < 1'000'000) ++samples_;
  const double n = samples_;
  // Early on, plain averages; later the newest samples weigh more.
  const double fast = std::max(1 / n, policy.fast_weight);
  const double slow = std::max(1 / n, 1 / policy.slow_samples);
  const double expected = slow_ + policy.trend_share * (fast_ - slow_);
  const double error = sample - expected;
  if (samples_ > 1) {
    variance_ += std::max(1 / (n - 1), 1 / policy.slow_samples) * (error * error - variance_);
  }
  fast_ += fast * (sample - fast_);
  slow_ += slow * (sample - slow_);
}

Forecast LoadEstimator::forecast(double most, const PolicyConfig& policy) const {
  const double watched = samples_ > 0 ? samples_ - 1.0 : 0.0;
  const double prior = policy.prior_deviation * most;
  const double believed = policy.prior_samples;
  const double variance =
      watched + believed > 0
          ? (watched * variance_ + believed * prior * prior) / (watched + believed)
          : 0;
  return {slow_ + policy.trend_share * (fast_ - slow_), variance};
}

double expected_excess(const Forecast& load, double capacity) {
  const double deviation = std::sqrt(std::max(0.0, load.variance));
  if (deviation <= 0) return std::max(0.0, load.mean - capacity);
  const double z = (capacity - load.mean) / deviation;
  const double density = std::exp(-z * z / 2) / std::sqrt(2 * 3.14159265358979323846);
  const double tail = std::erfc(z / std::sqrt(2.0)) / 2;
  return deviation * std::max(0.0, density - z * tail);
}

}  // namespace godwit::balancer
