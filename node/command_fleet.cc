// start, drain, undrain, mode, explain: one request each to the node of this host.
#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <ctime>
#include <nlohmann/json.hpp>
#include <thread>
#include <utility>

#include "node/commands.h"
#include "node/control_socket.h"
#include "node/daemon/json_fields.h"
#include "node/daemon/node_config.h"
#include "node/daemon/screen_text.h"
#include "node/exit_codes.h"
#include "node/local_node.h"
#include "node/machine_options.h"
#include "node/options.h"
#include "node/progress_line.h"
#include "node/report_text.h"
#include "node/units.h"

namespace godwit::node {

using nlohmann::json;
using namespace std::chrono_literals;

namespace {

constexpr const char* kCodes = "Exit codes: 0 done, 1 failed (one line says why), 2 wrong usage.";

std::string when(const json& record) {
  const auto time = static_cast<std::time_t>(number_in(record, "time").value_or(0));
  std::tm local{};
  ::localtime_r(&time, &local);
  char text[32] = {};
  std::strftime(text, sizeof text, "%F %T", &local);
  return text;
}

/// What became of a decision, in words; empty while nothing has.
std::string outcome_text(const json& record) {
  const json& outcome = field(record, "outcome");
  if (!outcome.is_object()) return {};
  std::string text = printable(text_in(outcome, "status").value_or("?"));
  if (const auto ms = number_in(outcome, "total_ms")) {
    text += " in " + format_time_ms(*ms);
    const double predicted = number_in(field(record, "predicted"), "seconds").value_or(0);
    if (predicted > 0) text += fmt::format(" (predicted {})", format_time_ms(predicted * 1000));
  }
  if (const auto ms = number_in(outcome, "downtime_ms"))
    text += fmt::format(", paused {:.0f} ms", *ms);
  if (const auto reason = text_in(outcome, "reason"); reason && !reason->empty()) {
    text += ": " + printable(*reason);
  }
  const auto change = [&](const char* before_key, const char* later_key, const std::string& what) {
    const auto before = number_in(outcome, before_key);
    const auto later = number_in(outcome, later_key);
    if (!before || !later) return;
    text += fmt::format("{} from {:.0f} % to {:.0f} %", what, *before * 100, *later * 100);
  };
  change("source_load_before", "source_load_later", "; the load here went");
  change("target_load_before", "target_load_later", ", there");
  change("deviation_before", "deviation_later", ", the hosts' deviation");
  if (const auto verdict = text_in(outcome, "verdict")) text += "; " + printable(*verdict);
  if (const json& undone = field(outcome, "undone"); undone.is_object()) {
    text += fmt::format("; undone after {:.0f} s: it went on to {}",
                        number_in(undone, "after_s").value_or(0),
                        printable(text_in(undone, "to").value_or("?")));
  }
  return text;
}

void print_record(const json& record) {
  fmt::print("{}  {}\n", when(record), printable(text_in(record, "text").value_or("?")));
  const json& inputs = field(record, "inputs");
  for (const json& peer : list_in(inputs, "peers")) {
    fmt::print("    {:<16} load {:5.1f} %, forecast {:5.1f} %\n",
               printable(text_in(peer, "name").value_or("?")),
               number_in(peer, "load").value_or(0) * 100,
               number_in(peer, "forecast_load").value_or(0) * 100);
  }
  std::string guests;
  for (const json& guest : list_in(inputs, "guests")) {
    guests += fmt::format("{}{} {:.2f} cores", guests.empty() ? "" : ", ",
                          printable(text_in(guest, "name").value_or("?")),
                          number_in(guest, "forecast").value_or(0));
    const double rests = number_in(guest, "rests_s").value_or(0);
    if (rests > 0) guests += " (rests " + format_age(rests) + ")";
  }
  if (!guests.empty()) fmt::print("    guests: {}\n", guests);
  if (const std::string outcome = outcome_text(record); !outcome.empty()) {
    fmt::print("    -> {}\n", outcome);
  }
}

/// What a drain does, as its node's status tells it.
class DrainWatch {
 public:
  explicit DrainWatch(bool as_json) : as_json_(as_json) {}

  void plan(const json& plan) const {
    if (as_json_) return print(plan);
    for (const json& move : list_in(plan, "plan")) {
      fmt::print("{} goes to {}\n", word(move, "guest"), word(move, "to"));
    }
    std::fflush(stdout);
  }

  void show(const json& status) {
    const json& drain = field(status, "drain");
    const json& moved = list_in(drain, "moved");
    const double all = number_in(drain, "guests").value_or(0);
    if (shown_ < moved.size()) line_.clear();
    for (; shown_ < moved.size(); ++shown_) {
      const json& move = moved[shown_];
      if (as_json_) {
        print(move);
        continue;
      }
      fmt::print("{} at {}, {} of {:.0f}, {:.1f} s\n", word(move, "guest"), word(move, "to"),
                 shown_ + 1, all, number_in(move, "total_ms").value_or(0) / 1000);
      std::fflush(stdout);
    }
    if (text_in(status, "state") != "draining") return line_.clear();
    complain(printable(text_in(status, "drain_trouble").value_or("")));
    for (const json& move : list_in(status, "moves")) {
      if (text_in(move, "from") != text_in(status, "name")) continue;
      const std::string who = fmt::format("{} to {}  ", word(move, "guest"), word(move, "to"));
      const auto room = ProgressLine::columns() - std::min<std::size_t>(60, who.size());
      line_.draw(who + progress_bar(move, static_cast<unsigned>(room)));
    }
  }

  /// The exit code; throws when guests are left.
  int end(const json& status) const {
    const std::string state = word(status, "state");
    const std::size_t left = list_in(status, "guests").size();
    if (as_json_) {
      print({{"state", state}, {"guests_left", left}});
    } else if (left == 0) {
      fmt::print("empty, and closed until godwit undrain\n");
    }
    if (left == 0) return kExitOk;
    if (state != "closed") throw std::runtime_error("the drain was stopped by undrain");
    throw std::runtime_error(word(status, "drain_trouble"));
  }

 private:
  static std::string word(const json& object, const char* key) {
    return printable(text_in(object, key).value_or("?"));
  }
  static void print(const json& value) {
    fmt::print("{}\n", value.dump());
    std::fflush(stdout);
  }
  void complain(const std::string& trouble) {
    if (std::exchange(trouble_, trouble) == trouble || trouble.empty()) return;
    line_.clear();
    fmt::print(stderr, "godwit: drain: {}\n", trouble);
  }

  const bool as_json_;
  std::size_t shown_ = 0;  // of the guests that have moved
  std::string trouble_;
  ProgressLine line_;
};
/// Where else to look for it.
void explain_guest(const LocalNode& node, const std::string& name, bool no_records) {
  for (const json& guest : node.request("GET", "/v1/guests", nullptr, 10s)) {
    if (text_in(guest, "name") != name) continue;
    if (no_records) fmt::print("no decisions about {} yet\n", name);
    const std::string left = text_in(guest, "left").value_or("");
    if (!left.empty()) {
      fmt::print("{0} came from {1}: what was decided before that, {1} knows\n", name,
                 printable(left));
    }
    return;
  }
  if (no_records) {
    throw std::runtime_error(
        fmt::format("no guest called {} is here, and no decision was about one", name));
  }
}

}  // namespace

int start_command(const Words& words) {
  Options options("start --name NAME --kernel PATH [OPTION...]",
                  "Has the node of this host start a guest in the background and keep it.",
                  "Its console is in DIRECTORY/console/NAME.log, DIRECTORY as in the node's "
                  "configuration, that of "
                  "--hvc\nin NAME.hvc beside it.\n" +
                      std::string(kCodes));
  add_machine_options(options);
  options.flag("hvc", "a second, fast console for the guest, hvc0")
      .group("Balancing")
      .value("sensitivity", "WEIGHT",
             "of its lost work when it is moved: 0 batch, 1, 10 a database", "1")
      .values("needs", "CAPABILITY", "only hosts that have it; repeatable")
      .value("apart", "GROUP", "at most one guest of the group on a host")
      .value("together", "GROUP", "guests of the group stay on one host")
      .flag("pin", "never move it");
  if (!LocalNode::add_option(options).parse(words)) return kExitOk;
  const vmm::MachineConfig config = machine_config(options);
  json disks = json::array();
  for (const vmm::DiskConfig& disk : config.disks) {
    disks.push_back({{"path", disk.path},
                     {"read_only", disk.read_only},
                     {"cache", disk.direct ? "none" : "writeback"},
                     {"serial", disk.serial}});
  }
  json nets = json::array();
  for (const vmm::NetConfig& net : config.nets) {
    nets.push_back({{"tap", net.tap}, {"mac", net.mac}, {"mtu", net.mtu}, {"bridge", net.bridge}});
  }
  json attributes{{"needs", options.all("needs")}, {"pinned", options.on("pin")}};
  attributes["sensitivity"] = json::parse(options.text("sensitivity"), nullptr, false);
  if (!attributes["sensitivity"].is_number()) throw UsageError("--sensitivity: must be a number");
  for (const char* key : {"apart", "together"}) {
    if (options.has(key)) attributes[key] = options.text(key);
  }
  json request{{"name", config.name},
               {"kernel", config.kernel},
               {"append", config.command_line},
               {"memory_bytes", config.memory_bytes},
               {"cpus", config.cpus},
               {"cpu", config.cpu},
               {"disks", disks},
               {"nets", nets},
               {"rng", config.rng},
               {"balloon", config.balloon},
               {"hvc", options.on("hvc")},
               {"huge_pages", config.huge_pages},
               {"attributes", attributes}};
  if (config.vsock.cid != 0) {
    request["vsock"] = {{"cid", config.vsock.cid}, {"path", config.vsock.path}};
  }
  if (!config.initrd.empty()) request["initrd"] = config.initrd;
  const json status = LocalNode(options).request("POST", "/v1/guests", request, 130s);
  fmt::print("{} runs (pid {})\n", config.name,
             static_cast<long>(number_in(status, "pid").value_or(0)));
  return kExitOk;
}

int drain_command(const Words& words) {
  Options options(
      "drain [--node SOCKET] [--json]",
      "Moves every guest of this host to its peers, by a plan that is checked to fit before the "
      "first move,\nand keeps the host closed until `godwit undrain`.",
      "Ctrl-C stops watching, not draining; `godwit undrain` stops it.\n"
      "Exit codes: 0 empty, 1 refused or failed (one line says why), 2 wrong usage.");
  options.flag("json", "print the plan, each guest that has moved, and the end as JSON lines");
  if (!LocalNode::add_option(options).parse(words)) return kExitOk;
  const LocalNode node(options);
  const json plan = node.request("PUT", "/v1/drain", json::object(), 10s);
  DrainWatch watch(options.on("json"));
  watch.plan(plan);
  json status;
  do {
    std::this_thread::sleep_for(200ms);
    status = node.request("GET", "/v1/node", nullptr, 10s);
    watch.show(status);
  } while (text_in(status, "state") == "draining");
  return watch.end(status);
}

int undrain_command(const Words& words) {
  Options options("undrain [--node SOCKET]",
                  "Opens a drained host to guests again, and stops a drain.", kCodes);
  if (!LocalNode::add_option(options).parse(words)) return kExitOk;
  const json opened = LocalNode(options).request("PUT", "/v1/undrain", json::object(), 10s);
  fmt::print("{} is open\n", printable(text_in(opened, "name").value_or("?")));
  return kExitOk;
}

int mode_command(const Words& words) {
  Options options(
      "mode [off|advise|automatic] [--goal GOAL] [--node SOCKET] [--json]",
      "Shows or sets what the balancer of this host may do, and what for.",
      "off        measures only; drains, and moves by hand, go on\n"
      "advise     decides and records, but moves nothing: see godwit explain\n"
      "automatic  moves\n"
      "It holds until the node restarts: then its configuration does. A move in flight goes on.\n" +
          std::string(kCodes));
  options.optional_argument("mode")
      .value("goal", "GOAL", "balance: even loads; consolidate: empty hosts, save energy")
      .flag("json", "print the mode and the goal as JSON");
  if (!LocalNode::add_option(options).parse(words)) return kExitOk;
  json wanted = json::object();
  if (options.has("mode")) {
    if (!mode_named(options.text("mode"))) {
      throw UsageError("the mode must be off, advise or automatic");
    }
    wanted["mode"] = options.text("mode");
  }
  if (options.has("goal")) {
    if (!goal_named(options.text("goal"))) {
      throw UsageError("--goal: must be balance or consolidate");
    }
    wanted["goal"] = options.text("goal");
  }
  const LocalNode node(options);
  const json now = wanted.empty() ? node.request("GET", "/v1/view", nullptr, 10s)
                                  : node.request("PUT", "/v1/mode", wanted, 10s);
  const std::string mode = text_in(now, "mode").value_or("?");
  const std::string goal = text_in(now, "goal").value_or("?");
  if (options.on("json")) {
    fmt::print("{}\n", json{{"mode", mode}, {"goal", goal}}.dump());
  } else {
    fmt::print("mode {}, goal {}\n", printable(mode), printable(goal));
  }
  return kExitOk;
}

int explain_command(const Words& words) {
  Options options(
      "explain [--guest NAME] [--last N] [--node SOCKET] [--json]",
      "Shows what the balancer of this host decided, and refused, why, and what came of it.",
      "Benefit and cost of a move are work of CPUs that is won and lost, in core-seconds.\n" +
          std::string(kCodes));
  options.value("guest", "NAME", "only decisions about this guest")
      .value("last", "N", "the newest N, at most 1000", "200")
      .flag("json", "print the records as JSON");
  if (!LocalNode::add_option(options).parse(words)) return kExitOk;
  std::string target = "/v1/decisions";
  if (options.has("guest")) {
    if (const std::string why = name_complaint(options.text("guest")); !why.empty()) {
      throw UsageError("--guest: " + why);
    }
    target += "/" + options.text("guest");
  }
  target += fmt::format("?last={}", options.count("last", 1, 1000));
  const LocalNode node(options);
  const json records = node.request("GET", target, nullptr, 10s);
  if (options.on("json")) {
    fmt::print("{}\n", records.dump(2));
    return kExitOk;
  }
  for (const json& record : records) print_record(record);
  if (options.has("guest")) {
    explain_guest(node, options.text("guest"), records.empty());
  } else if (records.empty()) {
    fmt::print("no decisions yet\n");
  }
  return kExitOk;
}

}  // namespace godwit::node
