#include "balancer/rules.h"

#include <algorithm>
#include <cmath>

namespace godwit::balancer {

double PowerCurve::at(double load) const {
  const double u = std::clamp(load, 0.0, 1.0) * 10;
  const auto low = std::min<std::size_t>(9, static_cast<std::size_t>(u));
  return watts[low] + (watts[low + 1] - watts[low]) * (u - static_cast<double>(low));
}

namespace {
// A million cores in millicores, a petabyte in MB, and so that no product of figures overflows.
constexpr double kMost = 1e9;

// False for what is not a number, too.
bool figure(double value) { return value >= 0 && value <= kMost; }
}  // namespace

bool sane(const Forecast& forecast) {
  return figure(forecast.mean) && forecast.variance >= 0 && forecast.variance <= kMost * kMost;
}

bool sane(const GuestView& guest) {
  return sane(guest.forecast) && figure(guest.demand) && figure(guest.memory) &&
         figure(guest.given) && figure(guest.dirty_rate) && figure(guest.sensitivity);
}

bool sane(const HostView& host) {
  return sane(host.forecast) && figure(host.demand) && figure(host.capacity) && host.capacity > 0 &&
         figure(host.core) && figure(host.memory) && figure(host.memory_used) &&
         figure(host.link) && host.incoming >= 0 && host.outgoing >= 0 &&
         std::all_of(host.power.watts.begin(), host.power.watts.end(), figure) &&
         std::all_of(host.offers.begin(), host.offers.end(),
                     [](const GuestView& offer) { return sane(offer); });
}

double room_of(const GuestView& guest) { return std::max(guest.memory, guest.given); }

Rule broken_rule(const GuestView& guest, const HostView& target) {
  if (!target.alive || !(target.capacity > 0)) return Rule::kDown;
  if (target.closed) return Rule::kClosed;
  if ((guest.needs & ~target.has) != 0) return Rule::kNeeds;
  if (target.memory > 0 && !(target.memory_used + room_of(guest) <= target.memory)) {
    return Rule::kMemory;
  }
  if (guest.keep_apart != 0 && std::find(target.groups.begin(), target.groups.end(),
                                         guest.keep_apart) != target.groups.end()) {
    return Rule::kApart;
  }
  const double core = target.core > 0 ? target.core : target.capacity;
  return std::max(guest.demand, guest.forecast.mean) <= core ? Rule::kNone : Rule::kCore;
}

bool has_room(const Forecast& load, const HostView& target, const PolicyConfig& policy) {
  const double high = load.mean + policy.confidence * std::sqrt(std::max(0.0, load.variance));
  // Written so that a figure that is not a number has no room.
  return high <= policy.fill * target.capacity;
}

Forecast with(const Forecast& load, const Forecast& guest) {
  return {load.mean + guest.mean, load.variance + guest.variance};
}

Forecast without(const Forecast& load, const Forecast& guest) {
  return {std::max(0.0, load.mean - guest.mean), std::max(0.0, load.variance - guest.variance)};
}

void charge(HostView& host, const GuestView& guest, double sign) {
  host.demand = std::max(0.0, host.demand + sign * guest.demand);
  host.memory_used = std::max(0.0, host.memory_used + sign * room_of(guest));
  if (sign > 0) {
    host.forecast = with(host.forecast, guest.forecast);
    ++host.guests;
    if (guest.keep_apart != 0) host.groups.push_back(guest.keep_apart);
  } else {
    host.forecast = without(host.forecast, guest.forecast);
    if (host.guests > 0) --host.guests;
    const auto group = std::find(host.groups.begin(), host.groups.end(), guest.keep_apart);
    if (group != host.groups.end()) host.groups.erase(group);
  }
}

}  // namespace godwit::balancer
