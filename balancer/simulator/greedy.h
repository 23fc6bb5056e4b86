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

// The deviation of host load when all guests could be placed anew for free with the loads of this
// moment: longest processing time first, each to the host where it is lowest afterwards, then
// single moves while they help.
double repacked_deviation(const World& world);

}  // namespace godwit::balancer::simulator
