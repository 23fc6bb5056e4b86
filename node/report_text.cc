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

/// Nothing where it never came to that; two lines where it is encrypted.
std::string transport_line(const json& report) {
  const std::string transport = word(report, "transport");
  if (transport.empty()) return {};
  std::string text = fmt::format("  transport  {}", transport);
  if (const std::string why = word(report, "transport_reason"); !why.empty()) {
    text += fmt::format("  ({})", why);
  }
  if (const double streams = number(report, "streams"); streams > 1) {
    text += fmt::format(", {:.0f} {}", streams, transport == "rdma" ? "queue pairs" : "streams");
  }
  text += '\n';
  if (const std::string who = word(report, "tls"); who == "kernel" || who == "user") {
    text += fmt::format("  encrypted  by TLS 1.3, {}\n",
                        who == "kernel" ? "in the kernel" : "in the guest's process");
  }
  return text;
}

/// ", compressed to 30 %", or nothing.
std::string compressed_text(double pages, double wire) {
  // What goes with the pages is some thousandths of them.
  if (wire <= 0 || wire >= pages * 0.95) return {};
  return fmt::format(", compressed to {:.0f} %", wire / pages * 100);
}

/// What was dirty after the times at which it was looked at, some of them.
std::string curve_line(const json& curve) {
  if (!curve.is_array() || curve.empty()) return {};
  std::string text = "  dirties    ";
  const std::size_t step = (curve.size() + 3) / 4;
  for (std::size_t i = (curve.size() - 1) % step; i < curve.size(); i += step) {
    text += fmt::format("{} in {}, ", format_size(whole(curve[i], "bytes")),
                        format_time_ms(number(curve[i], "ms")));
  }
  text.resize(text.size() - 2);
  return text + '\n';
}

/// "896 ms in 3 rounds, downtime 12 ms"
std::string prediction_text(const json& predicted) {
  std::string text = format_time_ms(number(predicted, "total_ms"));
  const double rounds = number(predicted, "rounds");
  if (rounds > 0) text += fmt::format(" in {:.0f} round{}", rounds, rounds > 1 ? "s" : "");
  text += fmt::format(", downtime {}", format_time_ms(number(predicted, "downtime_ms")));
  if (const double percent = number(predicted, "throttle_percent"); percent > 0) {
    text += fmt::format(", throttled {:.0f} %", percent);
  }
  if (part(predicted, "postcopy") == true) text += ", its memory follows";
  return text;
}

/// "in doubt for 12.3 s; asked 7 times, last 2.1 s ago: cannot connect to ..."
std::string doubt_text(const json& doubt) {
  std::string text = fmt::format("in doubt for {}; asked {} times",
                                 format_time_ms(number(doubt, "for_ms")), whole(doubt, "attempts"));
  if (part(doubt, "last_attempt_ago_ms").is_number()) {
    text += fmt::format(", last {} ago", format_time_ms(number(doubt, "last_attempt_ago_ms")));
  }
  if (const std::string why = word(doubt, "last_error"); !why.empty()) text += ": " + why;
  return text;
}

}  // namespace

std::string progress_text(const json& progress) {
  if (!progress.is_object()) return "-";
  const std::string phase = word(progress, "phase");
  if (phase == "postcopy") {
    return fmt::format("runs there, {} of its memory left",
                       format_size(whole(progress, "remaining_bytes")));
  }
  if (const json doubt = part(progress, "doubt"); doubt.is_object()) return doubt_text(doubt);
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
  text += transport_line(report);
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
  text += fmt::format("  sent       {} in {} rounds, {}", format_size(whole(bytes, "ram")),
                      rounds.is_array() ? rounds.size() : 0,
                      format_rate(number(report, "throughput_mbps") * 1e6));
  text += compressed_text(number(bytes, "ram"), number(bytes, "wire")) + '\n';
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

std::string dry_run_text(const json& report) {
  const json ram = part(report, "ram");
  const json link = part(report, "link");
  std::string text = transport_line(report);
  text += fmt::format("  memory     {} to send, of {} that are in use\n",
                      format_size(whole(ram, "data")), format_size(whole(ram, "populated")));
  text += fmt::format("  link       {}, by {} that went there in {}{}\n",
                      format_rate(number(link, "mbps") * 1e6), format_size(whole(link, "bytes")),
                      format_time_ms(number(link, "ms")),
                      compressed_text(number(link, "bytes"), number(link, "wire")));
  text += curve_line(part(part(report, "dirty"), "curve"));
  text += fmt::format("  switch     {} beside sending memory, as rehearsed there\n",
                      format_time_ms(number(part(report, "switch_over"), "fixed_ms")));
  if (word(report, "status") == "would-complete") {
    const json predicted = part(report, "predicted");
    const double limit = number(report, "downtime_limit_ms");
    text += fmt::format(
        "  predicted  {}  ({} {})\n", prediction_text(predicted),
        number(predicted, "downtime_ms") > limit ? "more than the limit of" : "the limit is",
        format_time_ms(limit));
  }
  if (const json remedies = part(report, "remedies"); remedies.is_array()) {
    for (const json& remedy : remedies) {
      text += fmt::format("  it would   with {}: {}\n", word(remedy, "option"),
                          prediction_text(part(remedy, "predicted")));
    }
  }
  text += fmt::format("  dry run    {}, the guest's writes were logged for {} of that\n",
                      format_time_ms(number(report, "total_ms")),
                      format_time_ms(number(part(report, "dirty"), "log_ms")));
  return text;
}

}  // namespace godwit::node
