// The reference policies of Beloglazov and Buyya (2012) as CloudSim 3.0.3 carries them out:
// overload detection by THR, MAD, IQR or LR; selection by minimum migration time; placement by
// power-aware best fit decreasing. Baselines only.
#pragma once

#include <string>

#include "balancer/simulator/world.h"

namespace godwit::balancer::simulator {

enum class OverloadRule {
  kThreshold,
  kMedianAbsoluteDeviation,
  kInterquartileRange,
  kLocalRegression
};

struct ReferenceConfig {
  OverloadRule rule = OverloadRule::kLocalRegression;
  double parameter = 1.2;  // THR 0.8, MAD 2.5, IQR 1.5, LR 1.2
};

// "lr-mmt-1.2", "thr-mmt-0.8", "mad-mmt-2.5", "iqr-mmt-1.5". Throws std::runtime_error on anything
// else.
ReferenceConfig parse_reference(const std::string& name);

class ReferencePolicy : public Policy {
 public:
  explicit ReferencePolicy(const ReferenceConfig& config) : config_(config) {}
  std::vector<Move> plan(const World& world) override;

 private:
  ReferenceConfig config_;
};

}  // namespace godwit::balancer::simulator
