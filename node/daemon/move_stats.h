// What the moves took that this node began and that completed, counted for GET /metrics. Guarded by
// the node's lock.
#pragma once

#include <nlohmann/json.hpp>
#include <vector>

namespace godwit::node {

/// As Prometheus counts: how many values were at most as large as each bound.
class Histogram {
 public:
  explicit Histogram(std::vector<double> bounds);
  void add(double value);
  /// {"le": bounds, "counts": one more than these, "sum"}; the last count is of all.
  nlohmann::json to_json() const;

 private:
  std::vector<double> bounds_;
  std::vector<std::uint64_t> counts_;
  double sum_ = 0;
};

class MoveStats {
 public:
  /// The report of one that completed.
  void add(const nlohmann::json& report);
  /// {"seconds": histogram, "downtime_seconds": histogram, "sent_bytes"}
  nlohmann::json to_json() const;

 private:
  Histogram seconds_{{0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300}};
  Histogram downtime_{{0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5}};
  double sent_bytes_ = 0;
};

}  // namespace godwit::node
