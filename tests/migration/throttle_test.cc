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
  /// Of a CPU, over half a second.
  double share() {
    const auto start = std::chrono::steady_clock::now();
    const std::uint64_t before = machine_.vcpu_cpu_ns();
    std::this_thread::sleep_for(500ms);
    const std::chrono::duration<double, std::nano> time = std::chrono::steady_clock::now() - start;
    return static_cast<double>(machine_.vcpu_cpu_ns() - before) / time.count();
  }
  /// Other work on this machine may leave it little for a moment.
  bool runs_freely() {
    for (int i = 0; i < 10; ++i) {
      if (share() > 0.3) return true;
    }
    return false;
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
  EXPECT_LT(share(), 0.35);
  EXPECT_TRUE(machine_.running()) << "a guest that is throttled runs";
  throttle.set(40);
  EXPECT_LT(share(), 0.75);
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
    EXPECT_LT(share(), 0.3);
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
