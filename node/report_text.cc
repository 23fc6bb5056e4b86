#include "node/report_text.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "node/units.h"

namespace godwit::node {

using nlohmann::json;

namespace {

/// json::value() throws on a field of another type; for a report that is no reason to fail.
double number(const json& object, const char* field) {
  if (!object.is_object()) return 0;
  const auto found = object.find(field);
  return found != object.end() && found->is_number() ? found->get<double>() : 0;
}

std::uint64_t whole(const json& object, const char* field) {
  return static_cast<std::uint64_t>(std::clamp(number(object, field), 0.0, 1e18));
}

std::string word(const json& object, const char* field) {
  if (!object.is_object()) return {};
  const auto found = object.find(field);
  return found != object.end() && found->is_string() ? found->get<std::string>() : std::string();
}

json part(const json& object, const char* field) {
  if (!object.is_object()) return {};
  const auto found = object.find(field);
  return found != object.end() ? *found : json();
}

std::string downtime_line(const json& report) {
  const json parts = part(report, "downtime");
  std::string text = fmt::format("  downtime   {}", format_time_ms(number(report, "downtime_ms")));
  if (!parts.is_object()) return text + '\n';
  return fmt::format(
      "{}  (pause {}, last round {}, state {}, resume {})\n", text,
      format_time_ms(number(parts, "pause_ms")), format_time_ms(number(parts, "last_round_ms")),
      format_time_ms(number(parts, "state_ms")), format_time_ms(number(parts, "resume_ms")));
}

}  // namespace

std::string progress_text(const json& progress) {
  if (!progress.is_object()) return "-";
  const std::string phase = word(progress, "phase");
  if (phase == "postcopy") {
    return fmt::format("runs there, {} of its memory left",
                       format_size(whole(progress, "remaining_bytes")));
  }
  if (phase != "rounds") return phase.empty() ? "moving" : phase;
  std::string text = fmt::format("round {}, {} left, {}", whole(progress, "round"),
                                 format_size(whole(progress, "remaining_bytes")),
                                 format_rate(number(progress, "throughput_mbps") * 1e6));
  if (const double dirty = number(progress, "dirty_mbps"); dirty > 0) {
    text += fmt::format(", dirties {}", format_rate(dirty * 1e6));
  }
  if (const std::uint64_t percent = whole(progress, "throttle_percent"); percent > 0) {
    text += fmt::format(", throttled {} %", percent);
  }
  if (const double downtime = number(progress, "predicted_downtime_ms"); downtime > 0) {
    text += fmt::format(", would stop for {}", format_time_ms(downtime));
    if (const double limit = number(progress, "downtime_limit_ms"); downtime > limit) {
      text += fmt::format(", the limit is {}", format_time_ms(limit));
    }
  }
  return text;
}

std::string progress_bar(const json& progress, unsigned columns) {
  constexpr unsigned kBar = 30;
  const double total = number(progress, "total_bytes");
  const double left = number(progress, "remaining_bytes");
  const double share = total > 0 ? std::clamp(1 - left / total, 0.0, 1.0) : 0;
  const auto filled = static_cast<unsigned>(share * kBar);
  std::string line =
      fmt::format("[{}{}] {:5}  {}", std::string(filled, '#'), std::string(kBar - filled, '.'),
                  format_time_ms(number(progress, "elapsed_ms")), progress_text(progress));
  if (line.size() > columns) line.resize(columns);
  return line;
}

std::string report_text(const json& report) {
  std::string text = fmt::format("  status     {}", word(report, "status"));
  if (const std::string why = word(report, "reason"); !why.empty()) text += ": " + why;
  text += '\n';
  if (const std::string transport = word(report, "transport"); !transport.empty()) {
    text += fmt::format("  transport  {}", transport);
    if (const std::string why = word(report, "transport_reason"); !why.empty()) {
      text += fmt::format("  ({})", why);
    }
    if (const double streams = number(report, "streams"); streams > 1) {
      text += fmt::format(", {:.0f} streams", streams);
    }
    text += '\n';
  }
  if (const std::string who = word(report, "tls"); who == "kernel" || who == "user") {
    text += fmt::format("  encrypted  by TLS 1.3, {}\n",
                        who == "kernel" ? "in the kernel" : "in the guest's process");
  }
  text += fmt::format("  total      {}  (set-up {})\n", format_time_ms(number(report, "total_ms")),
                      format_time_ms(number(report, "setup_ms")));
  if (word(report, "status") == "completed") text += downtime_line(report);
  const json predicted = part(report, "predicted");
  if (const double total = number(predicted, "total_ms"); total > 0) {
    text += fmt::format("  predicted  {}, downtime {}  (after the first round)\n",
                        format_time_ms(total), format_time_ms(number(predicted, "downtime_ms")));
  }
  const json pages = part(report, "pages");
  const json bytes = part(report, "bytes");
  const json rounds = part(report, "rounds");
  text += fmt::format("  sent       {} in {} rounds, {}\n", format_size(whole(bytes, "ram")),
                      rounds.is_array() ? rounds.size() : 0,
                      format_rate(number(report, "throughput_mbps") * 1e6));
  text += fmt::format("  pages      {} sent, {} of them again; {} zero, {} never touched\n",
                      whole(pages, "sent"), whole(pages, "resent"), whole(pages, "zero"),
                      whole(pages, "hole"));
  if (const json rest = part(report, "postcopy");
      rest.is_object() && rest.value("used", json()) == true) {
    text += fmt::format("  post-copy  {} followed in {}, {} pages were waited for\n",
                        format_size(whole(rest, "missing_bytes")),
                        format_time_ms(number(rest, "ms")), whole(rest, "asked_pages"));
  }
  const json throttle = part(report, "throttle");
  if (const std::uint64_t percent = whole(throttle, "percent"); percent > 0) {
    text += fmt::format("  throttle   by up to {} %, for {}\n", percent,
                        format_time_ms(number(throttle, "ms")));
  }
  if (const double ms = number(part(report, "downtime"), "verify_ms"); ms > 0) {
    text += fmt::format("  verified   all memory, {} of the downtime here\n", format_time_ms(ms));
  }
  const json cpu = part(report, "cpu_ms");
  text += fmt::format("  CPU        {} here, {} there\n", format_time_ms(number(cpu, "source")),
                      format_time_ms(number(cpu, "destination")));
  return text;
}

}  // namespace godwit::node
