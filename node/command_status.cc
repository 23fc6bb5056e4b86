// status: what one guest says about itself.
#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "node/commands.h"
#include "node/control_client.h"
#include "node/daemon/json_fields.h"
#include "node/exit_codes.h"
#include "node/local_node.h"
#include "node/options.h"
#include "node/report_text.h"
#include "node/units.h"

namespace godwit::node {

using nlohmann::json;

namespace {

void line(const char* label, const std::string& value) { fmt::print("{:<10}{}\n", label, value); }

void print_status(const json& guest) {
  line("name", guest.value("name", "?"));
  line("state", guest.value("state", "?") +
                    (guest.value("panicked", false) ? ", its kernel has panicked" : ""));
  line("memory", format_size(guest.value("memory_bytes", 0ull)));
  line("vCPUs", std::to_string(guest.value("cpus", 0)));
  line("pid", std::to_string(guest.value("pid", 0)));
  line("uptime", format_time_ms(guest.value("uptime_ms", 0.0)));
  line("CPU time", format_time_ms(guest.value("cpu_ms", 0.0)));
  for (const json& disk : guest.value("disks", json::array())) {
    std::string text =
        disk.value("path", "?") + (disk.value("read_only", false) ? " (read-only)" : "");
    if (const auto errors = disk.value("errors", 0ull); errors != 0) {
      text += fmt::format(", {} requests failed: {}", errors, disk.value("last_error", "?"));
    }
    line("disk", text);
  }
  for (const json& net : guest.value("nets", json::array())) {
    const std::string bridge = net.value("bridge", "");
    line("net", net.value("tap", "?") + (bridge.empty() ? "" : " in " + bridge) + ", " +
                    net.value("mac", "?"));
  }
  if (const json balloon = guest.value("balloon", json()); balloon.is_object()) {
    line("balloon", fmt::format("{} of {} asked for; {} reported free",
                                format_size(balloon.value("actual_bytes", 0ull)),
                                format_size(balloon.value("target_bytes", 0ull)),
                                format_size(balloon.value("reported_bytes", 0ull))));
  }
  if (const json rest = guest.value("postcopy", json()); rest.is_object()) {
    line("post-copy",
         fmt::format(
             "{} of its memory still to come{}", format_size(rest.value("missing_bytes", 0ull)),
             rest.value("lost", false)
                 ? "; the link to the host that it left is lost: " + rest.value("reason", "")
                 : ""));
  }
  if (const json move = guest.value("migration", json()); move.is_object()) {
    line("move", progress_text(move));
  }
  if (const json report = guest.value("last_report", json()); report.is_object()) {
    fmt::print("last move:\n{}", report_text(report));
  }
}

/// A guest that does not answer is still known to its node.
int node_status(const Options& options) {
  const json known =
      LocalNode(options).request("GET", guest_target(options.text("NAME")), nullptr, kNodeAnswers);
  if (options.on("json")) {
    fmt::print("{}\n", known.dump(2));
    return kExitOk;
  }
  const json& own = field(known, "status");
  if (own.is_object()) {
    print_status(own);
  } else {
    line("name", known.value("name", "?"));
    line("state", known.value("state", "?") + "; it does not answer");
    line("pid", std::to_string(known.value("pid", 0)));
  }
  line("load", fmt::format("{:.2f} cores, forecast {:.2f}", number_in(known, "demand").value_or(0),
                           number_in(field(known, "forecast"), "mean").value_or(0)));
  if (const std::string left = known.value("left", ""); !left.empty()) {
    line("came from", fmt::format("{}, {} ago", left,
                                  format_age(number_in(known, "last_move_age_s").value_or(0))));
  }
  return kExitOk;
}

}  // namespace

int status_command(const Words& words) {
  Options options(
      "status NAME [--node SOCKET] [--json]",
      "Shows one guest: state, size, CPU time, disks, network cards, balloon, its move.",
      "NAME is a guest's name or the path of its control socket; of a node's guest, its name.\n"
      "Exit codes: 0 done, 1 failed (no such guest), 2 wrong usage.");
  options
      .flag("json",
            "print the answer of GET /v1/status, of a node GET /v1/guests/NAME "
            "(docs/api.md)")
      .argument("NAME");
  if (!LocalNode::add_option(options).parse(words)) return kExitOk;
  if (options.has("node")) return node_status(options);
  const json guest = ControlClient(options.text("NAME")).get("/v1/status");
  if (options.on("json")) {
    fmt::print("{}\n", guest.dump(2));
  } else {
    print_status(guest);
  }
  return kExitOk;
}

}  // namespace godwit::node
