#include "node/daemon/managed_guest.h"

#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <stdexcept>

#include "node/daemon/json_fields.h"

namespace godwit::node {

using nlohmann::json;

namespace {

constexpr double kMiB = 0x1p20;
constexpr double kMostCpus = 1024;
constexpr std::size_t kMaxGroup = 64;  // characters

std::string group_in(const json& object, const char* key) {
  if (field(object, key).is_null()) return {};
  const auto text = text_in(object, key);
  if (!text || text->size() > kMaxGroup) {
    throw std::runtime_error(
        fmt::format("{}: must be a text of at most {} characters", key, kMaxGroup));
  }
  return *text;
}

double clamped(const json& object, const char* key, double least, double most) {
  return std::clamp(number_in(object, key).value_or(least), least, most);
}

}  // namespace

Attributes attributes_of(const json& object) {
  Attributes attributes;
  if (!field(object, "sensitivity").is_null()) {
    const auto value = number_in(object, "sensitivity");
    if (!value || *value < 0 || *value > 100) {
      throw std::runtime_error("sensitivity: must be a number from 0 to 100");
    }
    attributes.sensitivity = *value;
  }
  for (const json& item : list_in(object, "needs")) {
    if (!item.is_string() || item.get<std::string>().size() > kMaxGroup ||
        attributes.needs.size() >= 16) {
      throw std::runtime_error("needs: must be at most 16 short texts");
    }
    attributes.needs.push_back(item.get<std::string>());
  }
  attributes.apart = group_in(object, "apart");
  attributes.together = group_in(object, "together");
  attributes.pinned = number_in(object, "pinned").value_or(0) != 0;
  return attributes;
}

json to_json(const Attributes& attributes) {
  return {{"sensitivity", attributes.sensitivity},
          {"needs", attributes.needs},
          {"apart", attributes.apart},
          {"together", attributes.together},
          {"pinned", attributes.pinned}};
}

std::uint32_t group_number(const std::string& name) {
  if (name.empty()) return 0;
  return static_cast<std::uint32_t>(std::hash<std::string>{}(name) | 1);
}

void ManagedGuest::take_size(const json& description) {
  cpus = static_cast<unsigned>(clamped(description, "cpus", 1, kMostCpus));
  memory = std::max(0.0, number_in(description, "memory").value_or(0));
}

void ManagedGuest::take_description(const json& description, const balancer::PolicyConfig& policy) {
  take_size(description);
  memory_used = clamped(description, "memory_used", 0, memory);
  const double most = cpus;
  demand = clamped(description, "demand", 0, most);
  const json& forecast = field(description, "forecast");
  if (!number_in(forecast, "mean")) {
    load = {};
    load.add(demand, policy);
    return;
  }
  load = {{clamped(forecast, "mean", 0, most), clamped(forecast, "variance", 0, most * most)},
          static_cast<std::uint32_t>(clamped(description, "samples", 1, policy.slow_samples))};
}

void ManagedGuest::measure(const json& sample, std::chrono::steady_clock::time_point when,
                           const balancer::PolicyConfig& policy) {
  state = text_in(sample, "state").value_or(state);
  if (reserved) return;
  cpus =
      static_cast<unsigned>(std::clamp(number_in(sample, "cpus").value_or(cpus), 1.0, kMostCpus));
  memory = std::max(0.0, number_in(sample, "memory_bytes").value_or(0) / kMiB);
  memory_used = std::clamp(number_in(sample, "memory_used_bytes").value_or(0) / kMiB, 0.0, memory);
  dirty_rate = std::max(0.0, number_in(sample, "dirty_bytes_per_s").value_or(0) / kMiB);
  const double seconds = std::chrono::duration<double>(when - counted).count();
  if (!counters.is_null() && seconds > 0) {
    // A counter that stepped back belongs to another process of the same name: no rate yet.
    const auto rate = [&](const char* key) {
      const double step = number_in(sample, key).value_or(0) - number_in(counters, key).value_or(0);
      return std::max(0.0, step / seconds);
    };
    demand = std::min((rate("cpu_run_ns") + rate("cpu_wait_ns")) / 1e9, static_cast<double>(cpus));
    disk_read = rate("disk_read_bytes");
    disk_write = rate("disk_write_bytes");
    net_receive = rate("net_receive_bytes");
    net_send = rate("net_send_bytes");
    load.add(demand, policy);
  }
  counters = sample;
  counted = when;
}

}  // namespace godwit::node
