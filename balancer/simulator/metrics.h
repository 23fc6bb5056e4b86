// What a simulated day costs and how well it was served. MetricsRecorder is owned and fed by World.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace godwit::balancer::simulator {

struct Metrics {
  double energy_kwh = 0;
  double slatah = 0;  // fraction of active host time in which demand was not met
  double pdm = 0;     // fraction of demanded work lost to migration
  double slav() const { return slatah * pdm; }
  double esv() const { return energy_kwh * slav(); }
  std::uint64_t migrations = 0;
  std::uint64_t undone = 0;        // went back within kUndoneSeconds to a host it had left
  std::uint64_t unprofitable = 0;  // see docs/balancing.md
  std::uint64_t shutdowns = 0;
  double load_deviation = 0;    // time average of the standard deviation of host load (all hosts)
  double deviation_bound = 0;   // mean over the samples: every one placed anew for free (bound.h)
  double overload_seconds = 0;  // host-seconds in which the guests asked for more than the host has
  double mean_active_hosts = 0;  // time average
  double energy_bound_kwh = 0;   // every step packed perfectly, fractions allowed, moves free
  double decision_seconds = 0;   // processor time of the policy
  std::uint64_t decision_rounds = 0;
  std::vector<double> deviation_series;  // one value a sample
  std::vector<double> deviation_bound_series;
  std::vector<double> active_series;
  std::vector<double> power_series;  // kW
  std::vector<double> move_series;
};

inline constexpr double kUndoneSeconds = 2 * 3600;

// Accumulates by CloudSim's state-history rule: a state holds from its time to the next entry with
// another time; an entry with the same time replaces it.
class MetricsRecorder {
 public:
  void resize(std::size_t hosts, std::size_t guests);

  void host_state(std::size_t host, double time, double allocated, double requested);
  void guest_state(std::size_t guest, double time, double allocated, double requested,
                   bool migrating);
  void energy(double watt_seconds) { watt_seconds_ += watt_seconds; }
  // Load figures of the whole cluster: deviation and overloaded hosts averaged over the time since
  // the last call, the others at `time`. Called before a placement change and after it.
  void load(double time, double deviation, double overloaded, double active, double bound_watts);
  void sample(double deviation, double active, double kilowatts, double moves);
  void deviation_bound(double bound) { metrics_.deviation_bound_series.push_back(bound); }
  void moved(double time, std::size_t guest, std::size_t from, std::size_t to);
  void decided(double seconds, std::uint64_t rounds);

  // One entry per move, for judging it against what came later.
  struct MoveRecord {
    double time;
    std::uint32_t guest, from, to;
  };
  const std::vector<MoveRecord>& moves() const { return moves_; }
  void unprofitable(std::uint64_t count) { metrics_.unprofitable = count; }

  Metrics result();

 private:
  struct State {
    double time = -1, allocated = 0, requested = 0;
    bool flag = true;  // hosts: active; guests: migrating
  };
  std::vector<State> hosts_, guests_;
  double active_seconds_ = 0, violated_seconds_ = 0;
  double requested_work_ = 0, lost_work_ = 0;
  double watt_seconds_ = 0;
  double load_time_ = -1, load_active_ = 0, load_bound_ = 0;
  double load_seconds_ = 0, bound_watt_seconds_ = 0;
  std::vector<MoveRecord> moves_;
  Metrics metrics_;
};

}  // namespace godwit::balancer::simulator
