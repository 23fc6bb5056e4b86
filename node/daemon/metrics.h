// The node for Prometheus: what GET /v1/node says, as the text of GET /metrics. docs/operations.md
// and docs/grafana-godwit.json use these names: renaming one breaks people's dashboards.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

namespace godwit::node {

/// Prometheus text exposition format 0.0.4 (Content-Type: kMetricsContentType). `node`: the JSON of
/// GET /v1/node; what is missing, null or nonsense in it is left out, so is a second guest or peer
/// of the same name, and a metric without any value. Base units: seconds, bytes, cores, ratios 0-1.
/// Pure; never throws but for lack of memory.
std::string prometheus_text(const nlohmann::json& node);

inline constexpr const char* kMetricsContentType = "text/plain; version=0.0.4; charset=utf-8";

}  // namespace godwit::node
