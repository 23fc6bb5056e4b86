#include "balancer/simulator/metrics.h"

#include <algorithm>
#include <numeric>
#include <unordered_map>

namespace godwit::balancer::simulator {

void MetricsRecorder::resize(std::size_t hosts, std::size_t guests) {
  hosts_.resize(hosts);
  guests_.resize(guests);
}

void MetricsRecorder::host_state(std::size_t host, double time, double allocated,
                                 double requested) {
  State& previous = hosts_[host];
  if (previous.time >= 0 && previous.time != time && previous.flag) {
    const double seconds = time - previous.time;
    active_seconds_ += seconds;
    if (previous.allocated < previous.requested) violated_seconds_ += seconds;
  }
  if (previous.time >= 0 && previous.flag && !(allocated > 0)) ++metrics_.shutdowns;
  previous = {time, allocated, requested, allocated > 0};
}

void MetricsRecorder::guest_state(std::size_t guest, double time, double allocated,
                                  double requested, bool migrating) {
  State& previous = guests_[guest];
  if (previous.time >= 0 && previous.time != time) {
    const double seconds = time - previous.time;
    requested_work_ += previous.requested * seconds;
    if (previous.flag && previous.allocated < previous.requested) {
      lost_work_ += (previous.requested - previous.allocated) * seconds;
    }
  }
  previous = {time, allocated, requested, migrating};
}

void MetricsRecorder::load(double time, double deviation, double overloaded, double active,
                           double bound_watts) {
  if (load_time_ >= 0 && time > load_time_) {
    const double seconds = time - load_time_;
    load_seconds_ += seconds;
    metrics_.load_deviation += deviation * seconds;
    metrics_.overload_seconds += overloaded * seconds;
    metrics_.mean_active_hosts += (load_active_ + active) / 2 * seconds;
    bound_watt_seconds_ += (load_bound_ + bound_watts) / 2 * seconds;
  }
  load_time_ = time;
  load_active_ = active;
  load_bound_ = bound_watts;
}

void MetricsRecorder::sample(double deviation, double active, double kilowatts, double moves) {
  metrics_.deviation_series.push_back(deviation);
  metrics_.active_series.push_back(active);
  metrics_.power_series.push_back(kilowatts);
  metrics_.move_series.push_back(moves);
}

void MetricsRecorder::moved(double time, std::size_t guest, std::size_t from, std::size_t to) {
  moves_.push_back({time, static_cast<std::uint32_t>(guest), static_cast<std::uint32_t>(from),
                    static_cast<std::uint32_t>(to)});
}

void MetricsRecorder::decided(double seconds, std::uint64_t rounds) {
  metrics_.decision_seconds += seconds;
  metrics_.decision_rounds += rounds;
}

Metrics MetricsRecorder::result() {
  metrics_.energy_kwh = watt_seconds_ / 3'600'000;
  metrics_.energy_bound_kwh = bound_watt_seconds_ / 3'600'000;
  metrics_.slatah = active_seconds_ > 0 ? violated_seconds_ / active_seconds_ : 0;
  metrics_.pdm = requested_work_ > 0 ? lost_work_ / requested_work_ : 0;
  metrics_.migrations = moves_.size();
  if (load_seconds_ > 0) {
    metrics_.load_deviation /= load_seconds_;
    metrics_.mean_active_hosts /= load_seconds_;
  }
  const auto& bounds = metrics_.deviation_bound_series;
  if (!bounds.empty()) {
    metrics_.deviation_bound =
        std::accumulate(bounds.begin(), bounds.end(), 0.0) / static_cast<double>(bounds.size());
  }
  std::unordered_map<std::uint64_t, double> left;  // guest and host -> when it left
  for (const MoveRecord& move : moves_) {
    const auto key = [&](std::uint32_t host) { return std::uint64_t{move.guest} << 32 | host; };
    const auto found = left.find(key(move.to));
    if (found != left.end() && move.time - found->second <= kUndoneSeconds) ++metrics_.undone;
    left[key(move.from)] = move.time;
  }
  return metrics_;
}

}  // namespace godwit::balancer::simulator
