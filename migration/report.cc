#include "migration/report.h"

#include <nlohmann/json.hpp>

namespace godwit::migration {

using nlohmann::json;

double Report::throughput_mbps() const {
  double ms = 0;
  std::uint64_t bytes = 0;
  for (const Round& round : rounds) {
    ms += round.ms;
    bytes += round.bytes;
  }
  return ms > 0 ? static_cast<double>(bytes) * 8 / 1000 / ms : 0;
}

json to_json(const Prediction& prediction) {
  return {{"total_ms", prediction.total_ms},
          {"downtime_ms", prediction.downtime_ms},
          {"rounds", prediction.rounds},
          {"throttle_percent", prediction.throttle},
          {"postcopy", prediction.post_copy}};
}

json to_json(const Report& report) {
  json rounds = json::array();
  for (const Round& round : report.rounds) {
    rounds.push_back({{"pages", round.pages},
                      {"bytes", round.bytes},
                      {"ms", round.ms},
                      {"dirty_pages", round.dirty_pages}});
  }
  return {{"status", report.status},
          {"reason", report.reason},
          {"transport", report.transport},
          {"transport_reason", report.transport_reason},
          {"streams", report.streams},
          {"tls", report.tls},
          {"rdma_ports", report.rdma_ports.size()},
          {"total_ms", report.total_ms},
          {"setup_ms", report.setup_ms},
          {"downtime_ms", report.downtime_ms},
          {"downtime",
           {{"pause_ms", report.pause_ms},
            {"last_round_ms", report.last_round_ms},
            {"verify_ms", report.verify_ms},
            {"state_ms", report.state_ms},
            {"resume_ms", report.resume_ms}}},
          {"predicted", to_json(report.predicted)},
          {"rounds", rounds},
          {"pages",
           {{"sent", report.pages.sent},
            {"zero", report.pages.zero},
            {"hole", report.pages.hole},
            {"resent", report.pages.resent}}},
          {"postcopy",
           {{"used", report.postcopy.used},
            {"missing_bytes", report.postcopy.missing_bytes},
            {"asked_pages", report.postcopy.asked},
            {"ms", report.postcopy.ms}}},
          {"throttle", {{"percent", report.throttle_percent}, {"ms", report.throttle_ms}}},
          {"bytes",
           {{"ram", report.ram_bytes}, {"state", report.state_bytes}, {"wire", report.wire_bytes}}},
          {"throughput_mbps", report.throughput_mbps()},
          {"cpu_ms",
           {{"source", report.cpu_source_ms},
            {"destination", report.cpu_destination_ms},
            {"destination_rounds", report.cpu_destination_rounds_ms}}}};
}

namespace {

json to_json(const Progress::Doubt& doubt) {
  if (!doubt.since) return {};
  const auto ago = [](std::chrono::steady_clock::time_point then) {
    return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - then)
        .count();
  };
  return {{"for_ms", ago(*doubt.since)},
          {"attempts", doubt.attempts},
          {"last_attempt_ago_ms", doubt.last_attempt ? json(ago(*doubt.last_attempt)) : json()},
          {"last_error", doubt.last_error}};
}

}  // namespace

json to_json(const Progress& progress) {
  return {{"phase", progress.phase},
          {"transport", progress.transport},
          {"round", progress.round},
          {"remaining_bytes", progress.remaining_bytes},
          {"total_bytes", progress.total_bytes},
          {"throughput_mbps", progress.throughput_mbps},
          {"dirty_mbps", progress.dirty_mbps},
          {"throttle_percent", progress.throttle_percent},
          {"predicted_downtime_ms", progress.predicted_downtime_ms},
          {"downtime_limit_ms", progress.downtime_limit_ms},
          {"elapsed_ms", progress.elapsed_ms},
          {"doubt", to_json(progress.doubt)}};
}

}  // namespace godwit::migration
