// The first gate: our carrying out of the 3.0.3 rules against re-runs of CloudSim itself. The
// traces are not ours to ship; point GODWIT_PLANETLAB at a directory that holds the ten days.
#include "balancer/simulator/reference.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <span>

#include "balancer/simulator/world.h"

namespace godwit::balancer::simulator {
namespace {

struct Rerun {
  const char* day;
  double energy;
  std::uint64_t migrations;
};

// CloudSim 3.0.3, LR-MMT-1.2, sorted files, zero-VM removal on.
constexpr Rerun kReruns[] = {{"20110303", 163.48, 27859}, {"20110306", 123.28, 20878},
                             {"20110309", 142.09, 24959}, {"20110322", 177.48, 32038},
                             {"20110325", 152.58, 26513}, {"20110403", 219.70, 37972},
                             {"20110409", 179.89, 31556}, {"20110411", 176.12, 31960},
                             {"20110412", 151.61, 26248}, {"20110420", 130.90, 24400}};

TEST(ReferencePolicy, MatchesCloudSimOnEveryDay) {
  const char* root = std::getenv("GODWIT_PLANETLAB");
  if (root == nullptr) GTEST_SKIP() << "set GODWIT_PLANETLAB to the directory of the ten days";
  std::span<const Rerun> reruns = kReruns;
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  reruns = reruns.first(1);  // ten take minutes there; the release build runs them
#endif
  for (const Rerun& rerun : reruns) {
    const auto traces = read_traces(std::filesystem::path(root) / rerun.day);
    World world(traces, {});
    ReferencePolicy policy(parse_reference("lr-mmt-1.2"));
    const Metrics metrics = world.run(policy);
    EXPECT_NEAR(metrics.energy_kwh, rerun.energy, 0.005) << rerun.day;
    EXPECT_EQ(metrics.migrations, rerun.migrations) << rerun.day;
  }
}

std::vector<Trace> random_traces(std::size_t count) {
  std::mt19937_64 random(7);
  std::vector<Trace> traces(count);
  for (Trace& trace : traces) {
    int level = static_cast<int>(random() % 60);
    for (std::size_t i = 0; i < kSamplesPerDay; ++i) {
      level = std::clamp(level + static_cast<int>(random() % 21) - 10, 0, 100);
      trace.percent.push_back(static_cast<std::uint8_t>(level));
    }
  }
  return traces;
}

TEST(ReferencePolicy, EveryRuleRunsADayAndIsDeterministic) {
  const auto traces = random_traces(40);
  for (const char* name : {"thr-mmt-0.8", "mad-mmt-2.5", "iqr-mmt-1.5", "lr-mmt-1.2"}) {
    Metrics results[2];
    for (Metrics& result : results) {
      WorldConfig config;
      config.hosts = 40;
      config.seed = 3;
      World world(traces, config);
      ReferencePolicy policy(parse_reference(name));
      result = world.run(policy);
    }
    EXPECT_GT(results[0].migrations, 0u) << name;
    EXPECT_EQ(results[0].energy_kwh, results[1].energy_kwh) << name;
    EXPECT_EQ(results[0].migrations, results[1].migrations) << name;
    EXPECT_LT(results[0].energy_bound_kwh, results[0].energy_kwh) << name;
  }
}

TEST(ReferencePolicy, RefusesUnknownNames) {
  for (const char* name :
       {"", "lr", "lr-mmt-", "lr-mmt-x", "lr-mmt-1.2x", "foo-mmt-1", "lr-mmt--1"}) {
    EXPECT_THROW(parse_reference(name), std::runtime_error) << name;
  }
}

TEST(World, RefusesGuestsThatFitNowhere) {
  const auto traces = random_traces(40);
  WorldConfig config;
  config.hosts = 1;
  EXPECT_THROW(World(traces, config), std::runtime_error);
}

}  // namespace
}  // namespace godwit::balancer::simulator
