// What a host does and has left, from /proc: CPUs, memory, network, and how much its tasks wait for
// each (PSI). Owned by the node, asked about every second by one thread; a sample takes well under
// a millisecond. Files that are absent, cut off or nonsense, counters that step back and a clock
// that stands still never make a figure negative, infinite or NaN.
#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>

namespace godwit::node {

/// Pressure stall information of one resource (Linux, Documentation/accounting/psi.rst): shares of
/// time, 0 to 1, in which at least one task waited for it ("some").
struct Pressure {
  double avg10 = 0;  // the kernel's average over 10 s
  double now = 0;    // since the sample before
};

struct HostSample {
  unsigned cpus = 1;    // online, at least 1
  double cpu_busy = 0;  // cores, 0 to cpus; time stolen by a hypervisor below counts as busy
  std::optional<Pressure> cpu_pressure;  // empty without PSI (before Linux 4.20, or psi=0)
  std::optional<Pressure> memory_pressure;
  std::optional<Pressure> io_pressure;
  double memory_mb = 0;            // MB (2^20 bytes) of RAM
  double memory_available_mb = 0;  // of it, what could be had without swapping, huge pages included
  double network_rx_bytes_per_s = 0;
  double network_tx_bytes_per_s = 0;

  /// Tasks wait for memory for a share of the time that a new guest would only raise.
  bool short_of_memory() const;
};

class HostLoad {
 public:
  using Clock = std::function<std::chrono::steady_clock::time_point()>;

  /// `proc` and `sys`: where those file systems are; tests put other files there. Takes a first
  /// look, so that sample() has something to compare with. Throws nothing.
  explicit HostLoad(std::string proc = "/proc", std::string sys = "/sys",
                    Clock clock = std::chrono::steady_clock::now);

  /// Rates are since the call before (or the constructor); a call within 10 ms of it answers its
  /// rates again. What cannot be told now is as it was in the last call; pressure that cannot be
  /// told is empty. Bytes of RDMA are not in the network rates: they bypass the kernel. Network
  /// devices are those with hardware below; where there are none, as in a container, those that are
  /// not made of others (bridges, VLANs, bonds), nor loopback.
  HostSample sample();

 private:
  using CpuTicks = std::array<std::uint64_t, 8>;  // user to steal, proc(5)
  struct Bytes {
    std::uint64_t rx = 0, tx = 0;
  };
  using Traffic = std::map<std::string, Bytes>;  // of each device that counts
  struct Stall {
    std::optional<std::uint64_t> total_us;
    double now = 0;
  };

  void look_at_cpus();
  void look_at_memory();
  void look_at_network(std::optional<double> seconds);
  std::optional<Pressure> pressure(const char* resource, Stall& before,
                                   std::optional<double> seconds) const;
  std::optional<Traffic> traffic() const;
  bool has_hardware(const std::string& device) const;
  bool is_made_of_others(const std::string& device) const;

  const std::string proc_;
  const std::string sys_;
  const Clock clock_;
  HostSample last_;
  std::chrono::steady_clock::time_point when_;  // of what rates are compared with
  std::optional<CpuTicks> cpu_ticks_;
  std::optional<Traffic> traffic_;
  Stall cpu_stall_, memory_stall_, io_stall_;
};

}  // namespace godwit::node
