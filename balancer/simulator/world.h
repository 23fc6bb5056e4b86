// The simulated data centre: hosts, guests, time, and the accounting of energy and service
// violations, by the rules of CloudSim 3.0.3's PlanetLab experiments (Beloglazov and Buyya 2012) so
// that figures can be compared. A policy is asked for moves at every sample; the world carries them
// out and measures. Single-threaded.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <random>
#include <vector>

#include "balancer/simulator/metrics.h"
#include "balancer/simulator/trace.h"

namespace godwit::balancer::simulator {

using HostId = std::uint32_t;
using GuestId = std::uint32_t;

inline constexpr std::size_t kHistoryLength = 30;
inline constexpr double kMigrationMegabytesPerSecond = 62.5;
inline constexpr int kGuestsByBandwidth = 10;  // 1 Gbit/s of host, 100 Mbit/s of guest, at creation

// Watts at 0, 10 ... 100 % (SPECpower_ssj2008: HP ProLiant ML110 G4 and G5).
struct HostModel {
  double core_mips;
  double total_mips;  // two cores
  double ram;         // MB
  std::array<double, 11> watts;

  double power(double utilization) const;
};
extern const HostModel kHostModels[2];

struct GuestModel {
  double mips;
  double ram;  // MB
};
extern const GuestModel kGuestModels[4];

struct Guest {
  double mips = 0;
  double ram = 0;  // MB
  const std::uint8_t* samples = nullptr;
  std::size_t sample_shift = 0;  // for repeated traces: where in the day this guest starts
  HostId host = 0;
  bool migrating = false;
  bool removed = false;
  double requested = 0;                          // MIPS at `updated`
  double utilization = 0;                        // requested / mips
  double updated = -1;                           // seconds
  std::array<double, kHistoryLength> history{};  // ring; `newest` is the latest
  std::size_t newest = 0;
  std::size_t history_count = 0;

  // i = 0 is the newest sample; i < history_count.
  double past(std::size_t i) const {
    return history[(newest + kHistoryLength - i) % kHistoryLength];
  }
};

struct Host {
  const HostModel* model = nullptr;
  std::vector<GuestId> guests;    // in order of arrival, incoming ones included
  std::vector<GuestId> incoming;  // being copied to here
  double used_mips = 0;
  double previous_used_mips = 0;
  double requested_mips = 0;  // incoming guests included, as CloudSim counts
  double resident_mips = 0;   // asked for by the guests that live here
  double previous_load = 0;   // load() at the last event

  double load() const { return resident_mips / model->total_mips; }
  double utilization() const { return clip(used_mips / model->total_mips); }
  double previous_utilization() const { return clip(previous_used_mips / model->total_mips); }
  static double clip(double u) { return u > 1 && u < 1.01 ? 1 : u; }
};

struct Move {
  GuestId guest;
  HostId target;
};

class World;

// When, which and where. `plan` is called at every sample after the loads are updated; no move is
// in flight then.
class Policy {
 public:
  virtual ~Policy() = default;
  virtual std::vector<Move> plan(const World& world) = 0;
};

struct WorldConfig {
  std::size_t hosts = 800;
  bool remove_idle_guests =
      true;                   // CloudSim's rule: a guest that asks for nothing is gone for good
  bool memory_binds = false;  // CloudSim's guests need no RAM or bandwidth after creation
  std::uint64_t seed = 0;     // 0: files in order; otherwise shuffled
  std::size_t guests = 0;     // 0: one a trace; otherwise traces are repeated with shifts
  bool bounds = true;  // compute the load deviation's bound, which takes time in large clusters
  bool spread_start =
      false;  // start evenly spread (for goal balance) rather than by CloudSim's placement
};

class World {
 public:
  // `traces` must outlive the world. Throws std::runtime_error when a guest fits on no host at the
  // start.
  World(const std::vector<Trace>& traces, const WorldConfig& config);

  Metrics run(Policy& policy);

  const std::vector<Host>& hosts() const { return hosts_; }
  const std::vector<Guest>& guests() const { return guests_; }
  const WorldConfig& config() const { return config_; }
  double now() const { return now_; }
  std::size_t tick() const { return tick_; }  // samples seen so far
  bool live(GuestId guest) const { return !guests_[guest].removed; }

 private:
  void create_guests(const std::vector<Trace>& traces);
  void place_guests();
  HostId initial_host(const Guest& guest, std::vector<double>& used, std::vector<double>& ram,
                      std::vector<int>& count) const;
  double sample(const Guest& guest, double time) const;
  void update_guest(GuestId id);
  void update_host(HostId id);
  void advance(double time);
  void remove_idle();
  void start(const std::vector<Move>& moves);
  void finish(const Move& move);
  void take(HostId host, GuestId guest);
  void drop(HostId host, GuestId guest);

  WorldConfig config_;
  std::vector<Host> hosts_;
  std::vector<Guest> guests_;
  std::vector<double> allocation_;  // scratch of update_host
  MetricsRecorder recorder_;
  double now_ = 0;
  double last_processed_ = 0;
  std::size_t tick_ = 0;
};

}  // namespace godwit::balancer::simulator
