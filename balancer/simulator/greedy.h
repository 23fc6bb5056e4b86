// A DRS-like rebalancer without costs: at every sample, as long as any single move lowers the
// standard deviation of the hosts' current load, the best such move is made. The yardstick for goal
// `balance`.
#pragma once

#include "balancer/simulator/world.h"

namespace godwit::balancer::simulator {

class GreedyPolicy : public Policy {
 public:
  std::vector<Move> plan(const World& world) override;
};

}  // namespace godwit::balancer::simulator
