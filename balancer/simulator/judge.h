// Judges moves with hindsight, for every policy alike.
#pragma once

#include <cstdint>
#include <vector>

#include "balancer/simulator/world.h"

namespace godwit::balancer::simulator {

// A move was worth its cost when within the hour that followed it (a) the source would have been
// asked for more than 90 % of its capacity in some sample had the guest stayed, while the target
// was not, or (b) the source had no load for at least half of the hour, or (c) the squared load of
// the two hosts, weighted with their capacity, was lower on average than had the guest stayed.
// `demand[sample][host]` is in MIPS. Returns how many moves were not.
std::uint64_t count_unprofitable(const std::vector<MetricsRecorder::MoveRecord>& moves,
                                 const std::vector<std::vector<float>>& demand, const World& world);

}  // namespace godwit::balancer::simulator
