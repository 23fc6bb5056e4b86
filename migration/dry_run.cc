#include "migration/dry_run.h"

#include <algorithm>
#include <nlohmann/json.hpp>

namespace godwit::migration {

using nlohmann::json;

std::uint64_t DryRun::data_bytes() const {
  return static_cast<std::uint64_t>(static_cast<double>(populated_bytes) * data_share);
}

double DryRun::bytes_per_ms() const {
  return link_ms > 0 ? static_cast<double>(link_bytes) / link_ms : 0;
}

double DryRun::wire_share() const {
  if (link_bytes == 0 || wire_bytes == 0) return 1;
  return std::min(1.0, static_cast<double>(wire_bytes) / static_cast<double>(link_bytes));
}

json to_json(const DryRun& dry_run) {
  json curve = json::array();
  for (const DirtyCurve::Point& point : dry_run.curve.points()) {
    curve.push_back({{"ms", point.ms}, {"bytes", point.bytes}});
  }
  json remedies = json::array();
  for (const Remedy& remedy : dry_run.remedies) {
    remedies.push_back({{"option", remedy.option}, {"predicted", to_json(remedy.prediction)}});
  }
  return {{"dry_run", true},
          {"status", dry_run.status},
          {"reason", dry_run.reason},
          {"transport", dry_run.transport},
          {"transport_reason", dry_run.transport_reason},
          {"tls", dry_run.tls},
          {"streams", dry_run.streams},
          {"rdma_ports", dry_run.rdma_ports},
          {"total_ms", dry_run.total_ms},
          {"setup_ms", dry_run.setup_ms},
          {"ram", {{"populated", dry_run.populated_bytes}, {"data", dry_run.data_bytes()}}},
          {"link",
           {{"mbps", dry_run.bytes_per_ms() * 8 / 1000},
            {"bytes", dry_run.link_bytes},
            {"wire", dry_run.wire_bytes},
            {"ms", dry_run.link_ms}}},
          {"dirty", {{"log_ms", dry_run.log_ms}, {"curve", curve}}},
          {"switch_over",
           {{"fixed_ms", dry_run.fixed_ms},
            {"verify_ms", dry_run.verify_ms},
            {"state_bytes", dry_run.state_bytes}}},
          {"downtime_limit_ms", dry_run.downtime_limit_ms},
          {"predicted", to_json(dry_run.predicted)},
          {"remedies", remedies}};
}

}  // namespace godwit::migration
