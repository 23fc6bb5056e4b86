// migrate: asks the guest's process for a move, shows how it goes, and reports how it went.
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <csignal>
#include <ctime>
#include <exception>
#include <functional>
#include <nlohmann/json.hpp>
#include <optional>
#include <thread>

#include "node/commands.h"
#include "node/control_client.h"
#include "node/control_socket.h"
#include "node/exit_codes.h"
#include "node/host_port.h"
#include "node/local_node.h"
#include "node/options.h"
#include "node/progress_line.h"
#include "node/report_text.h"
#include "node/tls_options.h"
#include "node/units.h"

namespace godwit::node {

using nlohmann::json;

namespace {

constexpr std::chrono::hours kMoveTimeout{24};

constexpr const char* kHelp =
    "NAME is a guest's name or the path of its control socket. Ctrl-C cancels the move; a second "
    "one\n"
    "leaves it to itself. `godwit cancel NAME` cancels it from elsewhere.\n"
    "Exit codes: 0 the guest runs at the destination, 1 failed before the move began, 2 wrong "
    "usage,\n"
    "3 the move failed and the guest goes on here, unless it ended by itself meanwhile,\n"
    "4 it was cancelled and the guest goes on here,\n"
    "5 the connection was lost while committing: the guest is stopped here until the destination, "
    "its "
    "disks\n  or godwit resolve tell where it runs,\n"
    "7 the link was lost in post-copy: the guest runs at the destination and waits for memory that "
    "is here;\n"
    "  godwit migrate NAME --resume goes on, godwit stop --force at both ends gives the guest up,\n"
    "8 with --dry-run: the move would not converge,\n"
    "9 the node ended during a move to PEER: it goes on without it.";

sigset_t interrupts() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGINT);
  sigaddset(&set, SIGTERM);
  return set;
}

/// The request that answers when the move has ended, on a thread of its own.
class MoveCall {
 public:
  explicit MoveCall(std::function<json()> call)
      : thread_([this, call = std::move(call)] {
          try {
            report_ = call();
          } catch (...) {
            error_ = std::current_exception();
          }
          done_ = true;
          ::kill(::getpid(), SIGWINCH);  // cuts the wait for the next tick short; ignored otherwise
        }) {}
  ~MoveCall() { thread_.join(); }
  MoveCall(const MoveCall&) = delete;
  MoveCall& operator=(const MoveCall&) = delete;

  bool done() const { return done_; }
  json report() const {
    if (error_) std::rethrow_exception(error_);
    return report_;
  }

 private:
  std::atomic<bool> done_ = false;
  json report_;
  std::exception_ptr error_;
  std::thread thread_;
};

void show_progress(ProgressLine& line, const ControlClient& client) {
  if (!line.shown()) return;
  try {
    const json active = client.get("/v1/migration").value("active", json());
    if (active.is_object()) line.draw(progress_bar(active, ProgressLine::columns()));
  } catch (const std::exception&) {
    // The move's own answer will say what is wrong.
  }
}

void cancel(const ControlClient& client) {
  try {
    client.remove("/v1/migration");
  } catch (const ClientError& error) {  // too late, perhaps: the report will tell
    fmt::print(stderr, "godwit: migrate: {}\n", error.what());
  }
}

json move(const ControlClient& client, std::function<json()> request) {
  sigset_t signals = interrupts();
  ::pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  sigaddset(&signals, SIGWINCH);
  ::pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  ProgressLine progress;
  const MoveCall call(std::move(request));
  bool cancelled = false;
  while (!call.done()) {
    const timespec tick{0, 200'000'000};
    const int signal = ::sigtimedwait(&signals, nullptr, &tick);
    if (signal == SIGINT || signal == SIGTERM) {
      progress.clear();
      if (cancelled) ::_exit(kExitSignal + signal);
      fmt::print(stderr, "godwit: migrate: cancelling; the guest goes on here\n");
      cancel(client);
      cancelled = true;
    }
    if (!call.done()) show_progress(progress, client);
  }
  return call.report();
}

int exit_code(const std::string& status) {
  if (status == "completed" || status == "would-complete") return kExitOk;
  if (status == "would-not-converge") return kExitWouldNotConverge;
  if (status == "cancelled") return kExitCancelled;
  if (status == "in-doubt") return kExitInDoubt;
  if (status == "postcopy-paused") return kExitPostCopyPaused;
  return kExitMoveFailed;
}

/// Why it has not moved, and where that leaves the guest.
void explain(const std::string& name, const json& report, int code) {
  std::string line = report.value("reason", "");
  if (code == kExitInDoubt) {
    line += fmt::format(
        "; {0} is stopped here and may run at {1}, which is asked as long as it takes: godwit "
        "status {0} shows it, and godwit resolve {0} --here or --there decides",
        name, report.value("to", "the destination"));
  } else if (code == kExitPostCopyPaused) {
    line += fmt::format(
        "; {0} runs at {1} until it needs memory that is still here: once the link is back, say "
        "godwit migrate {0} --resume",
        name, report.value("to", "the destination"));
  } else if (report.value("guest_state", "") == "paused") {
    line += fmt::format("; {} is paused here", name);
  } else if (report.value("guest_state", "") == "over") {
    line += fmt::format("; {} is over", name);
  } else {
    line += fmt::format("; {} goes on here", name);
  }
  std::replace(line.begin(), line.end(), '\n', ' ');
  fmt::print(stderr, "godwit: migrate: {}\n", line);
}

int tell_dry_run(const std::string& name, const std::string& to, const json& report, bool as_json) {
  const int code = exit_code(report.value("status", "failed"));
  if (code != kExitOk) {
    fmt::print(stderr, "godwit: migrate: {} {} to {}: {}\n", name,
               code == kExitWouldNotConverge ? "would not move" : "cannot move", to,
               report.value("reason", ""));
  }
  if (as_json) {
    fmt::print("{}\n", report.dump(2));
  } else if (code == kExitOk) {
    fmt::print("{} would move to {}\n{}", name, to, dry_run_text(report));
  } else if (code == kExitWouldNotConverge) {
    fmt::print("{}", dry_run_text(report));
  }
  return code;
}

int tell(const std::string& name, const std::string& to, const json& report, bool as_json) {
  const int code = exit_code(report.value("status", "failed"));
  if (code != kExitOk) explain(name, report, code);
  if (as_json) {
    fmt::print("{}\n", report.dump(2));
  } else if (code == kExitOk) {
    fmt::print("{} runs at {} now\n{}", name, to, report_text(report));
  }
  return code;
}

json tls_of(const Options& options) {
  json tls = json::object();
  if (const auto files = tls_files(options)) {
    tls = {{"ca", files->ca}, {"certificate", files->certificate}, {"key", files->key}};
  }
  if (options.has("tls-name")) tls["name"] = options.text("tls-name");
  return tls;
}

int resume(const Options& options) {
  if (options.has("to")) throw UsageError("--to: a resumed move goes where it went");
  if (options.on("dry-run")) throw UsageError("--dry-run: of a move that has not begun");
  const ControlClient client(options.text("NAME"));
  const json report =
      move(client, [&] { return client.post("/v1/migration/resume", json::object()); });
  return tell(client.name(), report.value("to", ""), report, options.on("json"));
}

}  // namespace

int migrate_command(const Words& words) {
  Options options(
      "migrate NAME --to HOST:PORT|PEER [OPTION...]\n       godwit migrate NAME --resume",
      "Moves a running guest to a host where `godwit receive` listens, or whose node is a "
      "peer of this host's.",
      kHelp);
  options
      .value("to", "HOST:PORT|PEER",
             "where godwit receive listens, an IPv6 address in [brackets]; or a peer of the node, "
             "by name")
      .value("transport", "auto|rdma|tcp", "auto: RDMA if both ends reach each other by it", "auto")
      .value("mode", "precopy|postcopy|hybrid",
             "precopy: the guest runs there once all its memory is there; postcopy: at once, and "
             "its memory follows; hybrid: precopy, and postcopy if that will not end",
             "precopy")
      .value("downtime-limit", "TIME", "stop the guest once this suffices for the rest", "50ms")
      .value("max-bandwidth", "RATE", "at most that much, such as 1Gbit; 0: no limit", "0")
      .value("throttle", "PERCENT",
             "when the move does not converge, slow the guest down by up to that much, 0 to 95",
             "0")
      .value(
          "streams", "N",
          "connections that carry pages by TCP, 1 to 16, or queue pairs of an RDMA port, 1 to 8; "
          "0: by TCP as many as usable CPUs, at most 4; by RDMA as many as the link needs",
          "0")
      .value("rdma-ports", "N",
             "up to that many RDMA ports, 1 to 4, where both ends have as many on one network", "1")
      .value("timeout", "TIME", "give the move up after that long; 0: never", "60s")
      .value("node", "SOCKET", "of the node that knows PEER, instead of the one of this host")
      .flag("compress", "compress pages by TCP (zstd) where that is measured to be faster");
  add_tls_options(options, "this move, instead of the certificates of the guest's process");
  options
      .value("tls-name", "NAME",
             "what the destination's certificate has to say, if not the HOST of --to")
      .flag("verify",
            "compare digests of all memory before the commit: the guest stands still longer")
      .flag("dry-run",
            "nothing moves: measures the link and how fast the guest writes, and predicts the move")
      .flag(
          "resume",
          "go on with a move that has lost its link in post-copy, or in doubt ask at once; without "
          "--to")
      .flag("json", "print the report as JSON")
      .argument("NAME");
  if (!options.parse(words)) return kExitOk;
  if (options.on("resume")) return resume(options);

  const std::string transport = options.text("transport");
  if (transport != "auto" && transport != "rdma" && transport != "tcp") {
    throw UsageError("--transport: must be auto, rdma or tcp");
  }
  const std::string mode = options.text("mode");
  if (mode != "precopy" && mode != "postcopy" && mode != "hybrid") {
    throw UsageError("--mode: must be precopy, postcopy or hybrid");
  }
  if (mode != "precopy" && options.on("verify")) {
    throw UsageError(
        "--verify: compares all memory before the guest runs there: only with --mode precopy");
  }
  const std::string to = options.text("to");
  const bool to_peer = to.find(':') == std::string::npos;  // of the node, which knows its address
  if (const std::string why = to_peer ? name_complaint(to) : destination_complaint(to);
      !why.empty()) {
    throw UsageError("--to: " + why);
  }
  json body{{"transport", transport},
            {"mode", mode},
            {"downtime_limit_ms", options.time_ns("downtime-limit") / 1'000'000},
            {"max_bandwidth", options.rate("max-bandwidth")},
            {"timeout_ms", options.time_ns("timeout") / 1'000'000},
            {"verify", options.on("verify")},
            {"compress", options.on("compress")},
            {"throttle_percent", options.count("throttle", 0, 95)},
            {"streams", options.count("streams", 0, 16)},
            {"rdma_ports", options.count("rdma-ports", 1, 4)},
            {"dry_run", options.on("dry-run")}};
  if (const json tls = tls_of(options); !tls.empty()) {
    if (to_peer) throw UsageError("--tls-...: a move to a peer goes by the node's certificates");
    body["tls"] = tls;
  }
  std::optional<LocalNode> node;
  if (to_peer) node.emplace(options);
  const std::string given = options.text("NAME");
  const ControlClient client(node ? node->socket_of_guest(given) : given);
  const std::string name = node ? given : client.name();
  try {
    const json report = move(client, [&] {
      body["to"] = to;
      if (!node) return client.post("/v1/migrate", body);
      body["guest"] = given;
      return node->request("POST", "/v1/moves", body, kMoveTimeout);
    });
    return options.on("dry-run") ? tell_dry_run(name, to, report, options.on("json"))
                                 : tell(name, to, report, options.on("json"));
  } catch (const ClientError& error) {
    if (!to_peer || error.kind() != ClientError::Kind::kLost) throw;
    fmt::print(stderr,
               "godwit: migrate: {}: the move goes on without it, or is over; godwit status {} "
               "tells, here and at {}\n",
               error.what(), name, to);
    return kExitNodeLost;
  }
}

}  // namespace godwit::node
