// The results of simulations for people and programs: text, CSV, and an SVG plot of the day.
#pragma once

#include <string>
#include <vector>

#include "balancer/simulator/metrics.h"

namespace godwit::balancer::simulator {

struct Result {
  std::string policy;
  std::string trace;
  std::size_t hosts = 0;
  std::size_t guests = 0;
  std::uint64_t seed = 0;
  bool idle_removed = true;
  double wall_seconds = 0;
  Metrics metrics;
};

std::string to_text(const Result& result);
std::string csv_header();
std::string to_csv(const Result& result);  // one line with its newline
// Sample by sample: seconds, deviation, active hosts, kW, moves.
std::string series_csv(const Result& result);
// Active hosts, power, host-load deviation and moves over the day, one line a result.
std::string to_svg(const std::vector<Result>& results);

}  // namespace godwit::balancer::simulator
