#include "node/daemon/verdict.h"

#include <cmath>
#include <optional>
#include <vector>

#include "node/daemon/json_fields.h"

namespace godwit::node {

using nlohmann::json;

namespace {

constexpr double kNear = 0.1;  // of a host's capacity: a load that close is as predicted
constexpr const char* kRestarted = "unknown: the node restarted";

struct Change {
  std::optional<double> before, later;
};

double deviation(const std::vector<double>& loads) {
  double mean = 0;
  for (const double load : loads) mean += load / static_cast<double>(loads.size());
  double squares = 0;
  for (const double load : loads) squares += (load - mean) * (load - mean);
  return std::sqrt(squares / static_cast<double>(loads.size()));
}

bool near(const Change& change, std::optional<double> predicted) {
  return !change.later || !predicted || std::abs(*change.later - *predicted) <= kNear;
}

}  // namespace

json verdict(const json& record, const std::map<std::string, SettledHost>& hosts, bool alone) {
  const json& inputs = field(record, "inputs");
  const std::string source_name = text_in(record, "from").value_or("");
  const std::string target_name = text_in(record, "to").value_or("");
  Change source, target;
  std::vector<double> before, later;
  const auto look_at = [&](const json& host) {
    const std::string name = text_in(host, "name").value_or("");
    Change change{number_in(host, "forecast_load"), {}};
    if (const auto now = hosts.find(name); now != hosts.end()) {
      change.later = now->second.load;
      const double expected =
          number_in(host, "guests").value_or(0) + (text_in(record, "action") == "move" ? 1 : 0);
      if (name == target_name) alone = alone && static_cast<double>(now->second.guests) == expected;
    }
    if (name == source_name) source = change;
    if (name == target_name) target = change;
    if (!change.before || !change.later) return;
    before.push_back(*change.before);
    later.push_back(*change.later);
  };
  look_at(field(inputs, "self"));
  for (const json& peer : list_in(inputs, "peers")) look_at(peer);

  json outcome = json::object();
  const auto tell = [&](const char* which, const Change& change) {
    const std::string name = which;
    if (!change.before || !change.later) return;
    outcome[name + "_load_before"] = *change.before;
    outcome[name + "_load_later"] = *change.later;
  };
  tell("source", source);
  tell("target", target);
  if (before.size() > 1) {
    outcome["deviation_before"] = deviation(before);
    outcome["deviation_later"] = deviation(later);
  }
  const json& predicted = field(record, "predicted");
  if (source.before && source.later) outcome["relieved"] = *source.later < *source.before;
  if (number_in(predicted, "seconds").value_or(0) <= 0) {
    outcome["verdict"] = "undecided: nothing was predicted";
  } else if (!alone) {
    outcome["verdict"] = "undecided: others came or went meanwhile";
  } else {
    const bool right = near(source, number_in(predicted, "source_after")) &&
                       near(target, number_in(predicted, "target_after"));
    outcome["verdict"] = right ? "as predicted" : "not as predicted";
  }
  return outcome;
}

json unknown_outcome(const json& record) {
  const std::string action = text_in(record, "action").value_or("");
  const std::string cause = text_in(record, "cause").value_or("");
  const bool moves = action == "move" || action == "swap";
  const bool done = moves || action == "wake" || action == "sleep";
  const bool advice = text_in(record, "mode") == "advise" && cause != "drain" && cause != "by hand";
  if (!done || advice) return {};
  const json& outcome = field(record, "outcome");
  const auto status = text_in(outcome, "status");
  if (!status) {
    json unknown{{"status", "unknown"}, {"reason", "the node restarted"}};
    if (moves) unknown["verdict"] = kRestarted;
    return unknown;
  }
  const bool moved = moves && (*status == "completed" || *status == "half");
  if (!moved || outcome.contains("verdict") || outcome.contains("relieved")) return {};
  return {{"verdict", kRestarted}};
}

}  // namespace godwit::node
