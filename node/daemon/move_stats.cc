#include "node/daemon/move_stats.h"

#include <algorithm>

#include "node/daemon/json_fields.h"

namespace godwit::node {

using nlohmann::json;

Histogram::Histogram(std::vector<double> bounds)
    : bounds_(std::move(bounds)), counts_(bounds_.size() + 1) {}

void Histogram::add(double value) {
  const auto first = std::lower_bound(bounds_.begin(), bounds_.end(), value) - bounds_.begin();
  for (auto i = static_cast<std::size_t>(first); i < counts_.size(); ++i) ++counts_[i];
  sum_ += value;
}

json Histogram::to_json() const { return {{"le", bounds_}, {"counts", counts_}, {"sum", sum_}}; }

void MoveStats::add(const json& report) {
  seconds_.add(number_in(report, "total_ms").value_or(0) / 1000);
  downtime_.add(number_in(report, "downtime_ms").value_or(0) / 1000);
  for (const json& round : list_in(report, "rounds")) {
    sent_bytes_ += number_in(round, "bytes").value_or(0);
  }
}

json MoveStats::to_json() const {
  return {{"seconds", seconds_.to_json()},
          {"downtime_seconds", downtime_.to_json()},
          {"sent_bytes", sent_bytes_}};
}

}  // namespace godwit::node
