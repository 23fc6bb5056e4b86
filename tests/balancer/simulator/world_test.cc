// The figures of a day against a second reckoning of them.
#include "balancer/simulator/world.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>

namespace godwit::balancer::simulator {
namespace {

// Guest 0 goes from host 0 to host 1 after the first sample.
class OneMove : public Policy {
 public:
  std::vector<Move> plan(const World& world) override {
    return world.tick() == 1 ? std::vector<Move>{{0, 1}} : std::vector<Move>{};
  }
};
const double kArrival = kSampleSeconds + 0.1 + kGuestModels[0].ram / kMigrationMegabytesPerSecond;

std::vector<Trace> restless_traces(std::size_t count) {
  std::mt19937_64 random(3);
  std::vector<Trace> traces(count);
  for (Trace& trace : traces) {
    for (std::size_t i = 0; i < kSamplesPerDay; ++i) {
      trace.percent.push_back(static_cast<std::uint8_t>(random() % 101));
    }
  }
  return traces;
}

// Between two samples every guest's load runs straight from one to the other.
double load_at(const std::vector<Trace>& traces, std::size_t host, std::size_t hosts, double time) {
  const auto index = static_cast<std::size_t>(time / kSampleSeconds);
  const double part = time / kSampleSeconds - static_cast<double>(index);
  double asked = 0;
  for (std::size_t guest = 0; guest < traces.size(); ++guest) {
    if ((guest == 0 && time >= kArrival ? 1 : guest % hosts) != host) continue;
    const double now = traces[guest].percent[index], next = traces[guest].percent[index + 1];
    asked += (now + (next - now) * part) / 100 * kGuestModels[guest * 4 / traces.size()].mips;
  }
  return asked / kHostModels[host % 2].total_mips;
}

TEST(World, DeviationAndOverloadAreAveragesOverAllOfTheTimeNotOfItsSamples) {
  constexpr std::size_t kHosts = 6;
  const auto traces = restless_traces(4 * kHosts);
  WorldConfig config;
  config.hosts = kHosts;
  config.remove_idle_guests = false;
  config.spread_start = true;
  OneMove policy;
  const Metrics metrics = World(traces, config).run(policy);

  const double first = kSampleSeconds, last = (kSamplesPerDay - 1) * kSampleSeconds;
  double deviation = 0, overloaded = 0, steps = 0;
  for (double time = first + 0.5; time < last; ++time, ++steps) {
    double sum = 0, squares = 0;
    for (std::size_t host = 0; host < kHosts; ++host) {
      const double load = load_at(traces, host, kHosts, time);
      sum += load;
      squares += load * load;
      overloaded += load > 1;
    }
    deviation += std::sqrt(squares / kHosts - sum / kHosts * (sum / kHosts));
  }
  EXPECT_NEAR(metrics.load_deviation, deviation / steps, 0.002 * deviation / steps);
  EXPECT_NEAR(metrics.overload_seconds, overloaded, 0.005 * overloaded);
}

}  // namespace
}  // namespace godwit::balancer::simulator
