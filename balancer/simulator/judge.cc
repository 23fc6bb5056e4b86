#include "balancer/simulator/judge.h"

#include <algorithm>

namespace godwit::balancer::simulator {

namespace {

constexpr std::size_t kHorizonSamples = 12;  // an hour
constexpr double kHot = 0.9;

bool profitable(const MetricsRecorder::MoveRecord& move,
                const std::vector<std::vector<float>>& demand, const World& world) {
  const Guest& guest = world.guests()[move.guest];
  const double from_mips = world.hosts()[move.from].model->total_mips;
  const double to_mips = world.hosts()[move.to].model->total_mips;
  const auto first =
      static_cast<std::size_t>(move.time / kSampleSeconds);  // demand[first] is the next one
  const std::size_t last = std::min(first + kHorizonSamples, demand.size());
  std::size_t empty = 0;
  double gained = 0;
  bool relieved = false;
  for (std::size_t i = first; i < last; ++i) {
    const std::size_t sample =
        (std::min(i + 1, kSamplesPerDay - 1) + guest.sample_shift) % kSamplesPerDay;
    const double load = guest.samples[sample] / 100.0 * guest.mips;
    const double from = demand[i][move.from], to = demand[i][move.to];
    if (from == 0) ++empty;
    if (from + load > kHot * from_mips && to <= kHot * to_mips) relieved = true;
    const auto square = [](double x) { return x * x; };
    const double without = std::max(0.0, to - load);  // the guest may have moved on
    // Times the capacity: otherwise every way to a larger host were a gain.
    gained += from_mips * (square((from + load) / from_mips) - square(from / from_mips)) -
              to_mips * (square(to / to_mips) - square(without / to_mips));
  }
  return relieved || (last > first && 2 * empty >= last - first) || gained > 0;
}

}  // namespace

std::uint64_t count_unprofitable(const std::vector<MetricsRecorder::MoveRecord>& moves,
                                 const std::vector<std::vector<float>>& demand,
                                 const World& world) {
  return static_cast<std::uint64_t>(
      std::count_if(moves.begin(), moves.end(),
                    [&](const auto& move) { return !profitable(move, demand, world); }));
}

}  // namespace godwit::balancer::simulator
