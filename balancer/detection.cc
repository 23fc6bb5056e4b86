#include "balancer/detection.h"

#include <bit>

namespace godwit::balancer {

bool OverloadDetector::add(double demand, const Forecast& forecast, double capacity,
                           const PolicyConfig& policy) {
  if (!(capacity > 0)) return hot_ = false;
  const std::uint64_t window =
      policy.hot_n >= 64 ? ~std::uint64_t{0} : (std::uint64_t{1} << policy.hot_n) - 1;
  above_ = (above_ << 1 | (demand > policy.hot * capacity ? 1u : 0u)) & window;
  const bool persistent = std::popcount(above_) >= policy.hot_k;
  if (hot_) {
    hot_ = above_ != 0 && forecast.mean > policy.cool * capacity;
  } else {
    hot_ = persistent && forecast.mean > policy.hot_forecast * capacity;
  }
  return hot_;
}

}  // namespace godwit::balancer
