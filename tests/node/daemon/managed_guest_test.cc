#include "node/daemon/managed_guest.h"

#include <gtest/gtest.h>

#include <cmath>
#include <stdexcept>

#include "node/daemon/node_config.h"

namespace godwit::node {
namespace {

using nlohmann::json;
using std::chrono::seconds;
using Clock = std::chrono::steady_clock;

class ManagedGuestTest : public ::testing::Test {
 protected:
  void sample(double run_ns, double wait_ns, int at_s) {
    guest_.measure({{"state", "running"},
                    {"cpus", 2},
                    {"cpu_run_ns", run_ns},
                    {"cpu_wait_ns", wait_ns},
                    {"memory_bytes", 64 << 20},
                    {"memory_used_bytes", 16 << 20},
                    {"dirty_bytes_per_s", 3 << 20}},
                   start_ + seconds(at_s), policy_);
  }

  const balancer::PolicyConfig policy_ = live_policy(balancer::Goal::kBalance, seconds(1));
  const Clock::time_point start_ = Clock::now();
  ManagedGuest guest_{GuestProcess::adopt(0)};
};

TEST_F(ManagedGuestTest, AsksForWhatItRunsAndWaitsFor) {
  sample(5e9, 1e9, 0);
  EXPECT_EQ(guest_.demand, 0) << "one sample is no rate";
  sample(5.5e9, 1.25e9, 1);
  EXPECT_NEAR(guest_.demand, 0.75, 1e-9);
  EXPECT_EQ(guest_.memory, 64);
  EXPECT_EQ(guest_.memory_used, 16);
  EXPECT_EQ(guest_.dirty_rate, 3);
}

TEST_F(ManagedGuestTest, NeverAsksForMoreThanItsVcpusOrLessThanNothing) {
  sample(0, 0, 0);
  sample(9e9, 9e9, 1);
  EXPECT_EQ(guest_.demand, 2);
  sample(0, 0, 2);  // another process of that name
  EXPECT_EQ(guest_.demand, 0);
  sample(1e9, 0, 2);  // the clock stands still
  EXPECT_EQ(guest_.demand, 0);
}

TEST_F(ManagedGuestTest, NonsenseLeavesFiniteFigures) {
  sample(0, 0, 0);
  guest_.measure({{"state", 5}, {"cpus", -3}, {"memory_bytes", "x"}, {"cpu_run_ns", nullptr}},
                 start_ + seconds(1), policy_);
  for (const double figure :
       {guest_.demand, guest_.memory, guest_.memory_used, guest_.dirty_rate}) {
    EXPECT_TRUE(std::isfinite(figure));
    EXPECT_GE(figure, 0);
  }
  EXPECT_EQ(guest_.state, "running");
  EXPECT_EQ(guest_.cpus, 1u);
}

TEST_F(ManagedGuestTest, IsChargedAsItsOldHostSaysUntilItRuns) {
  guest_.reserved = true;
  guest_.take_description({{"cpus", 2},
                           {"memory", 64},
                           {"demand", 1.2},
                           {"forecast", {{"mean", 1.0}, {"variance", 0.04}}},
                           {"samples", 300}},
                          policy_);
  for (int s = 0; s < 20; ++s) sample(0, 0, s);  // of the process that waits for it
  EXPECT_EQ(guest_.demand, 1.2);
  EXPECT_EQ(guest_.memory, 64);
  EXPECT_EQ(guest_.load.forecast(2, policy_).mean, 1.0);
  EXPECT_NEAR(guest_.load.forecast(2, policy_).variance, 0.04, 0.001);
  guest_.reserved = false;
  for (int s = 20; s < 22; ++s) sample(1e9 * s, 0, s);
  EXPECT_EQ(guest_.demand, 1);
  EXPECT_NEAR(guest_.load.forecast(2, policy_).mean, 1.0, 1e-9);
}

TEST_F(ManagedGuestTest, ADescriptionOfNonsenseLeavesFiniteFigures) {
  guest_.take_description({{"cpus", -4},
                           {"memory", "x"},
                           {"demand", 1e300},
                           {"forecast", {{"mean", -1e300}, {"variance", 1e300}}},
                           {"samples", -7}},
                          policy_);
  EXPECT_EQ(guest_.cpus, 1u);
  EXPECT_EQ(guest_.memory, 0);
  EXPECT_EQ(guest_.demand, 1);
  const auto forecast = guest_.load.forecast(1, policy_);
  EXPECT_EQ(forecast.mean, 0);
  EXPECT_LE(forecast.variance, 1);
}

TEST(Attributes, AreReadAndWritten) {
  const json given{{"sensitivity", 7.5},
                   {"needs", {"gpu"}},
                   {"apart", "db"},
                   {"together", ""},
                   {"pinned", true}};
  EXPECT_EQ(to_json(attributes_of(given)), given);
  EXPECT_EQ(attributes_of(json()).sensitivity, 1);
}

TEST(Attributes, BadOnesAreNamed) {
  for (const json& bad :
       {json{{"sensitivity", "x"}}, json{{"sensitivity", -1}}, json{{"needs", {1}}},
        json{{"apart", 7}}, json{{"together", std::string(1000, 'x')}}}) {
    EXPECT_THROW((void)attributes_of(bad), std::runtime_error) << bad;
  }
}

}  // namespace
}  // namespace godwit::node
