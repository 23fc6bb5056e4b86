// What a guest's `GET /v1/load` says of real guests: busy and idle ones, and one that writes its
// memory at a known rate.
#include <gtest/gtest.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <thread>

#include "node/control_client.h"
#include "tests/node/process.h"

namespace godwit::node {
namespace {

using nlohmann::json;
using Clock = std::chrono::steady_clock;
using Words = std::vector<std::string>;
constexpr double kMiB = 1 << 20;

class LoadTest : public testing::Test {
 protected:
  LoadTest() { std::filesystem::create_directories(dir_); }
  ~LoadTest() override { std::filesystem::remove_all(dir_); }

  Words run(const char* guest, const char* parameters) const {
    return {"run",      "--name", "web1",     "--kernel", std::string(GODWIT_GUESTS) + "/" + guest,
            "--memory", "64M",    "--append", parameters, "--api",
            socket_};
  }
  json load() const { return ControlClient(socket_).get("/v1/load"); }
  static double demand_ns(const json& load) {
    return load["cpu_run_ns"].get<double>() + load["cpu_wait_ns"].get<double>();
  }
  /// In cores, by the counters' growth over a second.
  double demand() const {
    const json first = load();
    const auto start = Clock::now();
    std::this_thread::sleep_for(std::chrono::seconds(1));
    const json second = load();
    const double ns = std::chrono::duration<double, std::nano>(Clock::now() - start).count();
    return (demand_ns(second) - demand_ns(first)) / ns;
  }

  std::string dir_ = testing::TempDir() + "godwit_load_" + std::to_string(::getpid());
  std::string socket_ = dir_ + "/web1.sock";
};

TEST_F(LoadTest, ABusyGuestWantsACore) {
  Process guest(run("pattern.elf", "mib=16"));
  ASSERT_TRUE(guest.printed("tick 1 "));
  const double cores = demand();
  EXPECT_GT(cores, 0.3) << "less than a share of a busy machine";
  EXPECT_LT(cores, 1.2);
}

TEST_F(LoadTest, AnIdleGuestWantsNextToNothing) {
  Process guest(run("idle.elf", "tick=200"));
  ASSERT_TRUE(guest.printed("tick 1 "));
  EXPECT_LT(demand(), 0.2);
  const json said = load();
  EXPECT_EQ(said["state"], "running");
  EXPECT_EQ(said["cpus"], 1);
  EXPECT_EQ(said["memory_bytes"], 64u << 20);
  EXPECT_GT(said["memory_used_bytes"], 0u);
  EXPECT_LT(said["memory_used_bytes"], 8u << 20);
  EXPECT_LT(said["dirty_bytes_per_s"], 1.0 * kMiB);
  EXPECT_EQ(said["disk_read_bytes"], 0u);
  EXPECT_EQ(said["disk_write_bytes"], 0u);
}

TEST_F(LoadTest, EstimatesTheDirtyRate) {
  Process guest(run("pattern.elf", "mib=16 rate=4 verify=0"));
  ASSERT_TRUE(guest.printed("tick 1 "));
  json said = load();
  EXPECT_EQ(said["dirty_bytes_per_s"], 0.0);
  for (int second = 0; second < 6; ++second) {
    std::this_thread::sleep_for(std::chrono::seconds(1));
    said = load();
  }
  EXPECT_GT(said["dirty_bytes_per_s"], 4 * kMiB / 2.5);
  EXPECT_LT(said["dirty_bytes_per_s"], 4 * kMiB * 2.5);
  RecordProperty("dirty_bytes_per_s", said["dirty_bytes_per_s"].dump());
  EXPECT_GE(said["memory_used_bytes"], 16 * kMiB);
  EXPECT_LT(said["memory_used_bytes"], 24 * kMiB);
}

TEST_F(LoadTest, ARebootSetsNoCounterBack) {
  Process guest(run("pattern.elf", "mib=4"));
  ASSERT_TRUE(guest.printed("tick 5 "));
  double before = demand_ns(load());
  EXPECT_GT(before, 0);
  guest.type("r");
  const std::size_t printed = guest.out().size();
  const auto again = [&] { return guest.out().find("ready", printed) != std::string::npos; };
  const auto until = Clock::now() + std::chrono::seconds(10);
  while (!again() && Clock::now() < until) {
    const double now = demand_ns(load());
    EXPECT_GE(now, before);
    before = now;
    guest.read_for(1);
  }
  EXPECT_TRUE(again()) << guest.out();
  EXPECT_GE(demand_ns(load()), before);
}

TEST_F(LoadTest, APausedGuestStandsStill) {
  Process guest(run("pattern.elf", "mib=16"));
  ASSERT_TRUE(guest.printed("tick 1 "));
  ControlClient(socket_).put("/v1/pause", json::object());
  EXPECT_EQ(load()["state"], "paused");
  EXPECT_LT(demand(), 0.02);
}

}  // namespace
}  // namespace godwit::node
