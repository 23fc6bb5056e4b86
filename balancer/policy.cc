#include "balancer/policy.h"

#include <fmt/core.h>

#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <stdexcept>

namespace godwit::balancer {

namespace {

struct RealKey {
  const char* name;
  double PolicyConfig::*field;
  double least, most;
};
constexpr RealKey kReals[] = {
    {"fast_weight", &PolicyConfig::fast_weight, 0.01, 1},
    {"slow_samples", &PolicyConfig::slow_samples, 1, 10000},
    {"trend_share", &PolicyConfig::trend_share, 0, 1},
    {"prior_deviation", &PolicyConfig::prior_deviation, 0, 1},
    {"prior_samples", &PolicyConfig::prior_samples, 0, 1000},
    {"horizon_seconds", &PolicyConfig::horizon_seconds, 1, 86400},
    {"hot", &PolicyConfig::hot, 0.05, 10},
    {"cool", &PolicyConfig::cool, 0.05, 10},
    {"hot_forecast", &PolicyConfig::hot_forecast, 0.05, 10},
    {"fill", &PolicyConfig::fill, 0.05, 2},
    {"confidence", &PolicyConfig::confidence, 0, 10},
    {"margin", &PolicyConfig::margin, 0, 1000},
    {"work_per_joule", &PolicyConfig::work_per_joule, 0, 1e6},
    {"hold_seconds", &PolicyConfig::hold_seconds, 0, 1e6},
    {"empty_below", &PolicyConfig::empty_below, 0, 2},
    {"sample_share", &PolicyConfig::sample_share, 0, 1},
    {"spread_weight", &PolicyConfig::spread_weight, 0, 100},
    {"work_per_imbalance", &PolicyConfig::work_per_imbalance, 0, 1e6},
    {"deadband", &PolicyConfig::deadband, 0, 1},
    {"cooldown_seconds", &PolicyConfig::cooldown_seconds, 0, 1e6},
    {"settle_seconds", &PolicyConfig::settle_seconds, 0, 1e6},
};

struct CountKey {
  const char* name;
  int PolicyConfig::*field;
  int least, most;
};
constexpr CountKey kCounts[] = {
    {"hot_k", &PolicyConfig::hot_k, 1, 64},
    {"hot_n", &PolicyConfig::hot_n, 1, 64},
    {"peers_asked", &PolicyConfig::peers_asked, 1, 100000},
    {"incoming_limit", &PolicyConfig::incoming_limit, 1, 1000},
    {"outgoing_limit", &PolicyConfig::outgoing_limit, 1, 1000},
    {"moves_per_round", &PolicyConfig::moves_per_round, 1, 1000},
};

bool take(PolicyConfig& config, const std::string& key, const nlohmann::json& value) {
  for (const RealKey& real : kReals) {
    if (key != real.name) continue;
    if (!value.is_number() || value.get<double>() < real.least || value.get<double>() > real.most) {
      throw std::runtime_error(
          fmt::format("policy: {} must be a number from {} to {}", key, real.least, real.most));
    }
    config.*real.field = value.get<double>();
    return true;
  }
  for (const CountKey& count : kCounts) {
    if (key != count.name) continue;
    if (!value.is_number_integer() || value.get<double>() < count.least ||
        value.get<double>() > count.most) {
      throw std::runtime_error(
          fmt::format("policy: {} must be an integer from {} to {}", key, count.least, count.most));
    }
    config.*count.field = value.get<int>();
    return true;
  }
  return false;
}

Goal parse_goal(const nlohmann::json& document) {
  const auto goal = document.find("goal");
  if (goal == document.end() || *goal == "balance") return Goal::kBalance;
  if (*goal == "consolidate") return Goal::kConsolidate;
  throw std::runtime_error("policy: goal must be \"balance\" or \"consolidate\"");
}

}  // namespace

PolicyConfig default_policy(Goal goal) {
  PolicyConfig config;  // the members' initial values are those of goal balance
  config.goal = goal;
  if (goal == Goal::kBalance) return config;
  config.fast_weight = 0.7;
  config.slow_samples = 12;
  config.prior_deviation = 0.06;
  config.prior_samples = 3;
  config.trend_share = 0.2;
  config.cool = 0.85;
  config.fill = 0.95;
  config.confidence = 1.3;
  config.peers_asked = 32;
  config.cooldown_seconds = 300;
  config.moves_per_round = 4;
  return config;
}

PolicyConfig parse_policy(std::string_view json) {
  const auto document = nlohmann::json::parse(json, nullptr, false);
  if (!document.is_object()) throw std::runtime_error("policy: not a JSON object");
  PolicyConfig config = default_policy(parse_goal(document));
  for (const auto& [key, value] : document.items()) {
    if (key != "goal" && !take(config, key, value)) {
      throw std::runtime_error(fmt::format("policy: unknown key '{}'", key));
    }
  }
  if (config.hot_k > config.hot_n) throw std::runtime_error("policy: hot_k must not exceed hot_n");
  if (config.cool > config.hot) throw std::runtime_error("policy: cool must not exceed hot");
  return config;
}

PolicyConfig read_policy(const std::string& file) {
  std::ifstream stream(file, std::ios::binary);
  if (!stream) throw std::runtime_error("cannot read the policy file " + file);
  std::string text(64 * 1024 + 1, '\0');
  stream.read(text.data(), static_cast<std::streamsize>(text.size()));
  text.resize(static_cast<std::size_t>(stream.gcount()));
  if (text.size() > 64 * 1024) throw std::runtime_error("policy file " + file + ": above 64 KiB");
  return parse_policy(text);
}

std::string to_json(const PolicyConfig& config) {
  nlohmann::ordered_json document;
  document["goal"] = config.goal == Goal::kBalance ? "balance" : "consolidate";
  for (const RealKey& real : kReals) document[real.name] = config.*real.field;
  for (const CountKey& count : kCounts) document[count.name] = config.*count.field;
  return document.dump(2);
}

}  // namespace godwit::balancer
