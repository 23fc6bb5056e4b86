#include "balancer/forecast.h"

#include <algorithm>
#include <cmath>

namespace godwit::balancer {

namespace {
constexpr std::uint32_t kMostSamples = 1'000'000;
}

void LoadEstimator::add(double sample, const PolicyConfig& policy) {
  if (!std::isfinite(sample) || sample < 0) sample = 0;
  Memory& m = memory_;
  if (m.samples < kMostSamples) ++m.samples;
  const double n = m.samples;
  // Early on, plain averages; later the newest samples weigh more.
  const double fast = std::max(1 / n, policy.fast_weight);
  const double slow = std::max(1 / n, 1 / policy.slow_samples);
  const double expected = m.slow + policy.trend_share * (m.fast - m.slow);
  const double error = sample - expected;
  if (m.samples > 1) {
    m.variance += std::max(1 / (n - 1), 1 / policy.slow_samples) * (error * error - m.variance);
  }
  m.fast += fast * (sample - m.fast);
  m.slow += slow * (sample - m.slow);
}

Forecast LoadEstimator::forecast(double most, const PolicyConfig& policy) const {
  const Memory& m = memory_;
  const double watched = m.samples > 0 ? m.samples - 1.0 : 0.0;
  const double prior = policy.prior_deviation * most;
  const double believed = policy.prior_samples;
  const double variance =
      watched + believed > 0
          ? (watched * m.variance + believed * prior * prior) / (watched + believed)
          : 0;
  return {m.slow + policy.trend_share * (m.fast - m.slow), variance};
}

bool LoadEstimator::remember(const Memory& memory, double most) {
  const auto within = [](double value, double limit) { return value >= 0 && value <= limit; };
  if (!within(memory.fast, most) || !within(memory.slow, most) ||
      !within(memory.variance, most * most) || memory.samples > kMostSamples) {
    return false;
  }
  memory_ = memory;
  return true;
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
