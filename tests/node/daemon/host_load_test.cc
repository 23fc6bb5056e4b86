#include "node/daemon/host_load.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <random>
#include <thread>

namespace godwit::node {
namespace {

using std::chrono::milliseconds;

constexpr const char* kNetHeads =
    "Inter-|   Receive                |  Transmit\n face |bytes    packets|bytes    packets\n";

/// A /proc and a /sys of files that a test writes.
class HostLoadTest : public testing::Test {
 protected:
  HostLoadTest() {
    std::filesystem::create_directories(root_ + "/proc/net");
    std::filesystem::create_directories(root_ + "/proc/pressure");
    cpu(1000, 9000);
    write("proc/meminfo", "MemTotal:  16384000 kB\nMemFree: 1 kB\nMemAvailable:   8192000 kB\n");
    for (const char* resource : {"cpu", "memory", "io"}) psi(resource, "0.00", 0);
    device("eth0");
    net(line("lo", 5'000'000, 5'000'000) + line("eth0", 1000, 2000));
  }
  ~HostLoadTest() override { std::filesystem::remove_all(root_); }

  void write(const std::string& path, const std::string& text) const {
    std::ofstream(root_ + "/" + path) << text;
  }
  void remove(const std::string& path) const { std::filesystem::remove_all(root_ + "/" + path); }
  /// Ticks of a host with two CPUs.
  void cpu(std::uint64_t busy, std::uint64_t idle) const {
    write("proc/stat", "cpu  " + std::to_string(busy) + " 0 0 " + std::to_string(idle) +
                           " 0 0 0 0 0 0\ncpu0 1 0 0 1\ncpu1 1 0 0 1\nintr 17 1 2\n");
  }
  void psi(const std::string& resource, const std::string& avg10, std::uint64_t total_us) const {
    write("proc/pressure/" + resource,
          "some avg10=" + avg10 + " avg60=7.00 avg300=7.00 total=" + std::to_string(total_us) +
              "\nfull avg10=9.00 avg60=9.00 avg300=9.00 total=9\n");
  }
  void device(const std::string& name) const {
    std::filesystem::create_directories(root_ + "/sys/class/net/" + name + "/device");
  }
  void below(const std::string& name, const std::string& lower) const {
    std::filesystem::create_directories(root_ + "/sys/class/net/" + name + "/lower_" + lower);
  }
  static std::string line(const std::string& name, std::uint64_t rx, std::uint64_t tx) {
    return "  " + name + ": " + std::to_string(rx) + " 1 0 0 0 0 0 0 " + std::to_string(tx) +
           " 2 0 0 0 0 0 0\n";
  }
  void net(const std::string& lines) const { write("proc/net/dev", kNetHeads + lines); }

  HostLoad& load() {
    if (!load_) {
      load_.emplace(root_ + "/proc", root_ + "/sys", [this] { return now_; });
    }
    return *load_;
  }
  HostSample later(milliseconds step = milliseconds(1000)) {
    load();
    now_ += step;
    return sample();
  }
  HostSample sample() {
    const HostSample sample = load().sample();
    const auto share = [](const std::optional<Pressure>& pressure) {
      return !pressure || (pressure->avg10 >= 0 && pressure->avg10 <= 1 && pressure->now >= 0 &&
                           pressure->now <= 1);
    };
    EXPECT_GE(sample.cpus, 1u);
    EXPECT_TRUE(sample.cpu_busy >= 0 && sample.cpu_busy <= sample.cpus) << sample.cpu_busy;
    EXPECT_TRUE(share(sample.cpu_pressure) && share(sample.memory_pressure) &&
                share(sample.io_pressure));
    EXPECT_TRUE(std::isfinite(sample.memory_mb) && sample.memory_available_mb >= 0 &&
                sample.memory_available_mb <= sample.memory_mb);
    for (const double rate : {sample.network_rx_bytes_per_s, sample.network_tx_bytes_per_s}) {
      EXPECT_TRUE(std::isfinite(rate) && rate >= 0) << rate;
    }
    return sample;
  }

  const std::string root_ = testing::TempDir() + "godwit_host_load_" + std::to_string(::getpid());
  std::chrono::steady_clock::time_point now_{};
  std::optional<HostLoad> load_;
};

TEST_F(HostLoadTest, TellsWhatWasUsedSinceTheCallBefore) {
  load();
  cpu(1050, 9150);
  psi("cpu", "12.50", 250'000);
  psi("memory", "1.00", 0);
  net(line("lo", 9'000'000, 9'000'000) + line("eth0", 3000, 2500));
  const HostSample sample = later(milliseconds(2000));
  EXPECT_EQ(sample.cpus, 2u);
  EXPECT_DOUBLE_EQ(sample.cpu_busy, 0.5);
  EXPECT_EQ(sample.memory_mb, 16000);
  EXPECT_EQ(sample.memory_available_mb, 8000);
  ASSERT_TRUE(sample.cpu_pressure && sample.memory_pressure && sample.io_pressure);
  EXPECT_DOUBLE_EQ(sample.cpu_pressure->avg10, 0.125);
  EXPECT_DOUBLE_EQ(sample.cpu_pressure->now, 0.125);
  EXPECT_DOUBLE_EQ(sample.memory_pressure->avg10, 0.01);
  EXPECT_DOUBLE_EQ(sample.memory_pressure->now, 0);
  EXPECT_DOUBLE_EQ(sample.network_rx_bytes_per_s, 1000);
  EXPECT_DOUBLE_EQ(sample.network_tx_bytes_per_s, 250);
}

TEST_F(HostLoadTest, CountsHugePagesThatAreFree) {
  write("proc/meminfo",
        "MemTotal:  16384000 kB\nMemAvailable:   8192000 kB\nHugePages_Free:  1000\n"
        "Hugepagesize:  2048 kB\n");
  EXPECT_EQ(later().memory_available_mb, 10000);
}

TEST_F(HostLoadTest, IsShortOfMemoryWhereTasksWaitForItForLong) {
  EXPECT_FALSE(later().short_of_memory());
  psi("memory", "10.50", 0);
  EXPECT_TRUE(later().short_of_memory());
  remove("proc/pressure");
  EXPECT_FALSE(later().short_of_memory());
}

TEST_F(HostLoadTest, CountsWaitingForDisksAsIdleAndStolenTimeAsBusy) {
  write("proc/stat", "cpu 0 0 0 0 0 0 0 0\ncpu0 1 0 0 1\n");
  load();
  write("proc/stat", "cpu 10 10 10 10 40 5 5 10 999 999\ncpu0 1 0 0 1\n");
  EXPECT_DOUBLE_EQ(later().cpu_busy, 0.5);
}

TEST_F(HostLoadTest, FollowsCpusThatComeAndGo) {
  later();
  write("proc/stat", "cpu 1100 0 0 9000 0 0 0 0\ncpu0 1 0 0 1\n");
  HostSample sample = later();
  EXPECT_EQ(sample.cpus, 1u);
  EXPECT_DOUBLE_EQ(sample.cpu_busy, 1);
  cpu(1200, 9000);
  EXPECT_DOUBLE_EQ(later().cpu_busy, 2);
  write("proc/stat", "cpu 1200 0 0 9000 0 0 0 0\ncpu3 1 0 0 1\n");  // no tick passed
  sample = later();
  EXPECT_DOUBLE_EQ(sample.cpu_busy, 1) << "more than there is";
}

TEST_F(HostLoadTest, SaysWhenThereIsNoPressureInformation) {
  remove("proc/pressure");
  const HostSample sample = later();
  EXPECT_FALSE(sample.cpu_pressure || sample.memory_pressure || sample.io_pressure);
  EXPECT_EQ(sample.memory_mb, 16000);
}

TEST_F(HostLoadTest, CountsDevicesWithHardwareOnly) {
  const auto lines = [](std::uint64_t bytes) {
    return line("eth0", bytes, 0) + line("br0", bytes, 0) + line("tap0", 0, bytes);
  };
  below("br0", "eth0");
  net(lines(0));
  load();
  net(lines(1000));
  const HostSample sample = later();
  EXPECT_DOUBLE_EQ(sample.network_rx_bytes_per_s, 1000);
  EXPECT_DOUBLE_EQ(sample.network_tx_bytes_per_s, 0);
}

TEST_F(HostLoadTest, CountsVirtualDevicesOnceWhereThereAreNoOthers) {
  remove("sys/class/net/eth0");
  below("bond0", "eth0");
  net(line("bond0", 0, 0) + line("eth0", 0, 0) + line("lo", 0, 0));
  load();
  net(line("bond0", 500, 0) + line("eth0", 500, 0) + line("lo", 900, 0));
  EXPECT_DOUBLE_EQ(later().network_rx_bytes_per_s, 500);
  remove("sys");
  net(line("eth0", 700, 0));
  EXPECT_DOUBLE_EQ(later().network_rx_bytes_per_s, 200);
}

TEST_F(HostLoadTest, TakesNoTrafficFromADeviceThatIsNew) {
  later();
  device("eth1");
  net(line("eth0", 1000, 2000) + line("eth1", 1'000'000'000, 1'000'000'000));
  EXPECT_EQ(later().network_rx_bytes_per_s, 0);
  net(line("eth1", 1'000'000'100, 1'000'000'000));  // and eth0 has gone
  EXPECT_DOUBLE_EQ(later().network_rx_bytes_per_s, 100);
}

TEST_F(HostLoadTest, TakesACounterThatStepsBackForOneThatStoodStill) {
  later();
  cpu(10, 20);  // all of them
  psi("cpu", "50.00", 10);
  psi("cpu", "50.00", 5);
  net(line("eth0", 10, 2500));
  HostSample sample = later();
  EXPECT_EQ(sample.network_rx_bytes_per_s, 0);
  EXPECT_DOUBLE_EQ(sample.network_tx_bytes_per_s, 500);
  cpu(40, 30);
  net(line("eth0", 110, 2500));
  sample = later();
  EXPECT_DOUBLE_EQ(sample.cpu_busy, 1.5);
  EXPECT_DOUBLE_EQ(sample.network_rx_bytes_per_s, 100);
  // One field alone: iowait does that by itself.
  write("proc/stat", "cpu 50 0 0 40 0 0 0 0\ncpu0 1\n");
  later();
  write("proc/stat", "cpu 60 0 0 30 0 0 0 0\ncpu0 1\n");
  EXPECT_DOUBLE_EQ(later().cpu_busy, 1);
}

TEST_F(HostLoadTest, AnswersTheSameRatesWhileTheClockStandsStill) {
  load();
  cpu(1100, 9100);
  psi("io", "0.00", 500'000);
  net(line("eth0", 2000, 2000));
  EXPECT_DOUBLE_EQ(later().network_rx_bytes_per_s, 1000);
  for (int i = 0; i < 3; ++i) {
    net(line("eth0", 2100, 2000));
    psi("io", "0.00", 600'000);
    const HostSample sample = later(milliseconds(i));
    EXPECT_DOUBLE_EQ(sample.network_rx_bytes_per_s, 1000);
    EXPECT_DOUBLE_EQ(sample.io_pressure->now, 0.5);
    EXPECT_DOUBLE_EQ(sample.cpu_busy, 1);
  }
  const HostSample sample = later(milliseconds(997));
  EXPECT_DOUBLE_EQ(sample.network_rx_bytes_per_s, 100) << "what came in between is not lost";
  EXPECT_DOUBLE_EQ(sample.io_pressure->now, 0.1);
}

TEST_F(HostLoadTest, SurvivesAClockThatStepsBack) {
  later();
  net(line("eth0", 2000, 2000));
  later(milliseconds(-10'000));
  net(line("eth0", 2300, 2000));
  EXPECT_DOUBLE_EQ(later().network_rx_bytes_per_s, 300);
}

TEST_F(HostLoadTest, StaysAsItWasWhileFilesAreAway) {
  cpu(1000, 9000);
  load();
  cpu(1100, 9100);
  net(line("eth0", 2000, 2000));
  later();
  remove("proc");
  HostSample sample = later();
  EXPECT_EQ(sample.cpus, 2u);
  EXPECT_DOUBLE_EQ(sample.cpu_busy, 1);
  EXPECT_EQ(sample.memory_mb, 16000);
  EXPECT_DOUBLE_EQ(sample.network_rx_bytes_per_s, 1000);
  EXPECT_FALSE(sample.cpu_pressure);
  std::filesystem::create_directories(root_ + "/proc/net");
  net(line("eth0", 9000, 2000));
  EXPECT_DOUBLE_EQ(later().network_rx_bytes_per_s, 1000) << "of two seconds, not of one";
  net(line("eth0", 9500, 2000));
  EXPECT_DOUBLE_EQ(later().network_rx_bytes_per_s, 500);
}

TEST_F(HostLoadTest, SurvivesHostsWithoutAnything) {
  remove("proc");
  remove("sys");
  const HostSample sample = later();
  EXPECT_EQ(sample.cpus, 1u);
  EXPECT_EQ(sample.cpu_busy, 0);
  EXPECT_EQ(sample.memory_mb, 0);
}

TEST_F(HostLoadTest, TakesNothingFromLinesThatAreCutOffOrNonsense) {
  later();
  for (const char* stat :
       {"cpu", "cpu \n", "cpu 5000 0 0", "cpu 5000 0 0\n", "cpu 5000 0 0 9\0 1 2",
        "cpu -1 -1 -1 -1\n", "cpu x y z a\n", "\n", "cpu 99999999999999999999 1 1 1\n"}) {
    write("proc/stat", stat);
    EXPECT_EQ(later().cpu_busy, 0) << stat;
  }
  for (const char* memory :
       {"MemTotal: 16", "MemTotal: 1 kB\n", "MemTotal: 0 kB\nMemAvailable: 0 kB\n",
        "MemTotal: -5 kB\nMemAvailable: 1 kB\n", "MemAvailable: 1 kB\n",
        "MemTotal:\nMemAvailable:\n"}) {
    write("proc/meminfo", memory);
    EXPECT_EQ(later().memory_mb, 16000) << memory;
  }
  for (const char* pressure :
       {"some avg10=1.00 avg60=1.00 avg300=1.00 total=5", "some avg10=nan total=5\n",
        "some avg10=inf total=5\n", "some avg10=1.00 total=-5\n", "some avg10=1.00\n",
        "full avg10=1.00 total=5\n", "some avg10= total=\n", "avg10=1.00 total=1\n", ""}) {
    write("proc/pressure/cpu", pressure);
    EXPECT_FALSE(later().cpu_pressure) << pressure;
  }
  psi("cpu", "-5.00", 1);
  EXPECT_EQ(later().cpu_pressure->avg10, 0);
  psi("cpu", "1e300", UINT64_MAX);
  EXPECT_EQ(later().cpu_pressure->avg10, 1);
  EXPECT_EQ(later().cpu_pressure->now, 0);
  for (const char* lines : {"eth0: 5000 1 0 0 0 0 0 0 6000", "eth0: 5000 1 0\n", "eth0:\n",
                            ": 5000 1 1 1 1 1 1 1 1\n", "../../x: 5000 1 1 1 1 1 1 1 1\n",
                            "eth0: x 1 0 0 0 0 0 0 y 1\n", "eth0: -5000 1 0 0 0 0 0 0 -1 1\n"}) {
    net(lines);
    EXPECT_EQ(later().network_rx_bytes_per_s, 0) << lines;
    EXPECT_EQ(later().network_tx_bytes_per_s, 0) << lines;
  }
}

/// Every file cut off anywhere, and with bytes turned over: sample() itself checks the figures.
TEST_F(HostLoadTest, SurvivesDamagedFiles) {
  std::mt19937 random(7);
  const char* const files[] = {"proc/stat", "proc/meminfo", "proc/pressure/cpu", "proc/pressure/io",
                               "proc/net/dev"};
  for (int i = 0; i < 400; ++i) {
    cpu(1000 + static_cast<std::uint64_t>(i) * 7, 9000 + static_cast<std::uint64_t>(i) * 5);
    net(line("eth0", random(), random()) + line("eth1", random(), random()));
    psi("cpu", "3.00", random());
    const std::string file = files[random() % std::size(files)];
    std::string text;
    {
      std::ifstream in(root_ + "/" + file);
      text.assign(std::istreambuf_iterator<char>(in), {});
    }
    if (text.empty()) continue;
    if (random() % 2 == 0) text.resize(random() % text.size());
    for (unsigned flips = random() % 4; flips > 0 && !text.empty(); --flips) {
      text[random() % text.size()] = static_cast<char>(random());
    }
    write(file, text);
    later(milliseconds(random() % 2000));
    if (HasFailure()) FAIL() << file << ":\n" << text;
  }
}

TEST(HostLoad, SeesThisHost) {
  HostLoad load;
  const auto start = std::chrono::steady_clock::now();
  while (std::chrono::steady_clock::now() - start < milliseconds(200)) {
  }
  const HostSample sample = load.sample();
  EXPECT_GE(sample.cpus, 1u);
  EXPECT_LE(sample.cpus, 8192u);
  EXPECT_GT(sample.cpu_busy, 0.2);
  EXPECT_GT(sample.memory_mb, 64);
  EXPECT_GT(sample.memory_available_mb, 0);
  EXPECT_EQ(sample.cpu_pressure.has_value(), std::ifstream("/proc/pressure/cpu").get() != EOF);
}

}  // namespace
}  // namespace godwit::node
