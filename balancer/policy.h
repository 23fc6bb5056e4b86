// The balancer's settings, their defaults and ranges; read from a JSON object. The defaults of a
// goal come from `default_policy`; they were chosen on PlanetLab days 0303, 0309 and 0403
// (docs/balancing.md).
#pragma once

#include <string>
#include <string_view>

namespace godwit::balancer {

enum class Goal { kBalance, kConsolidate };

struct PolicyConfig {
  Goal goal = Goal::kBalance;

  // Forecast (forecast.h).
  double fast_weight = 0.5;       // of the newest sample in the fast average
  double slow_samples = 18;       // samples the slow average looks back
  double trend_share = 0.15;      // how much of fast - slow is expected to last over the horizon
  double prior_deviation = 0.03;  // of a guest's most, before it was watched
  double prior_samples = 4;       // how long that is believed
  double horizon_seconds = 3600;  // how long a load is expected to last

  // Overload (detection.h).
  double hot = 0.9;           // load that counts as hot
  double cool = 0.8;          // forecast below which a hot host has recovered
  double hot_forecast = 0.9;  // forecast that must agree
  int hot_k = 2;              // of the last hot_n samples
  int hot_n = 3;

  // Targets.
  double fill = 0.9;        // of capacity, for forecast mean + confidence x deviation
  double confidence = 0.3;  // standard deviations
  int peers_asked = 99;     // random peers a node asks in a round

  // Worth.
  double margin = 1.0;          // benefit must exceed margin x cost
  double work_per_joule = 1.0;  // consolidation: capacity x seconds a joule is worth
  double hold_seconds = 14400;  // how long an emptied host is expected to stay empty
  double empty_below = 0.8;     // only hosts below this forecast load try to empty themselves
  // Balance, in squared deviations of load from the mean of the hosts asked.
  double sample_share = 0.3;        // of the newest sample; the rest is the forecast's
  double spread_weight = 5;         // of a guest's variance, which it brings to any host for long
  double work_per_imbalance = 0.3;  // worth of one over the horizon, x capacity
  double deadband = 0.12;  // a move must take off deadband x the hosts' standard deviation (or
                           // half the deadband, where that is more)

  // Damping.
  double cooldown_seconds = 150;  // after a guest's move; doubles with every recent one
  double settle_seconds = 300;    // a host that received a guest does not empty itself
  int incoming_limit = 4;         // moves in flight a host
  int outgoing_limit = 16;
  int moves_per_round = 1;  // for overload and balance; emptying and draining are plans
};

PolicyConfig default_policy(Goal goal);

// Keys left out keep the goal's default. Throws std::runtime_error naming the key on unknown keys,
// wrong types and values out of range.
PolicyConfig parse_policy(std::string_view json);
PolicyConfig read_policy(const std::string& file);
std::string to_json(const PolicyConfig& config);

}  // namespace godwit::balancer
