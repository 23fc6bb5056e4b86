#include "migration/throttle.h"

#include <gtest/gtest.h>

#include <chrono>
#include <thread>

namespace godwit::migration {
namespace {

using namespace std::chrono_literals;

/// One vCPU that takes all it gets of a CPU.
class ThrottleTest : public ::testing::Test {
 protected:
  ThrottleTest() {
    machine_.boot();
    machine_.resume();
    std::this_thread::sleep_for(200ms);
  }
  static vmm::MachineConfig busy_guest() {
    vmm::MachineConfig config;
    config.name = "busy";
    config.memory_bytes = 32 << 20;
    config.kernel = GODWIT_GUESTS "/pattern.elf";
    config.command_line = "mib=4 rate=0";
    return config;
  }
  struct Shares {
    double run;   // of half a second, on a CPU
    double want;  // on a CPU or waiting for one: what is busy elsewhere does not count
  };
  Shares shares() {
    const auto start = std::chrono::steady_clock::now();
    const vmm::Usage before = machine_.usage();
    std::this_thread::sleep_for(500ms);
    const vmm::Usage after = machine_.usage();
    const std::chrono::duration<double, std::nano> time = std::chrono::steady_clock::now() - start;
    const auto run = static_cast<double>(after.cpu_run_ns - before.cpu_run_ns);
    const auto wait = static_cast<double>(after.cpu_wait_ns - before.cpu_wait_ns);
    return {run / time.count(), (run + wait) / time.count()};
  }
  /// Counted up to the last time it was scheduled, so one look is not enough.
  bool runs_freely() {
    double want = 0;
    for (int i = 0; i < 6 && want < 0.8; ++i) want = shares().want;
    return want >= 0.8;
  }
  std::string console_;  // of the vCPU's thread, read once it stands still or has failed
  vmm::Machine machine_{busy_guest(), [this](std::span<const std::byte> bytes) {
                          console_.append(reinterpret_cast<const char*>(bytes.data()),
                                          bytes.size());
                        }};
};

TEST_F(ThrottleTest, TakesItsShareOfTheVcpusTimeAndGivesItBack) {
  Throttle throttle(machine_);
  throttle.set(80);
  // A kick takes milliseconds of a period's 20 where everything is emulated.
  EXPECT_LT(shares().run, 0.5);
  EXPECT_TRUE(machine_.running()) << "a guest that is throttled runs";
  throttle.set(40);
  EXPECT_LT(shares().run, 0.85);
  throttle.set(0);
  EXPECT_TRUE(runs_freely());
  EXPECT_EQ(throttle.most(), 80u);
  EXPECT_GE(throttle.ms(), 1000);
}

TEST_F(ThrottleTest, IsCappedAndEndsWithItsObject) {
  {
    Throttle throttle(machine_);
    throttle.set(1000);
    EXPECT_EQ(throttle.percent(), kMaxThrottle);
    EXPECT_LT(shares().run, 0.4);
  }
  EXPECT_TRUE(machine_.running());
  EXPECT_TRUE(runs_freely()) << console_;
}

TEST_F(ThrottleTest, NeitherLetsAPausedMachineRunNorHoldsUpItsPause) {
  Throttle throttle(machine_);
  throttle.set(50);
  for (int i = 0; i < 20; ++i) {
    const auto start = std::chrono::steady_clock::now();
    machine_.pause();
    EXPECT_LT(std::chrono::steady_clock::now() - start, 500ms);
    const std::uint64_t before = machine_.vcpu_cpu_ns();
    std::this_thread::sleep_for(30ms);
    EXPECT_FALSE(machine_.running());
    EXPECT_LT(machine_.vcpu_cpu_ns() - before, 5'000'000u);
    machine_.resume();
  }
}

}  // namespace
}  // namespace godwit::migration
