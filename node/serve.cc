#include "node/serve.h"

#include <fmt/format.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <mutex>
#include <stdexcept>
#include <thread>

#include "node/exit_codes.h"
#include "node/host_events.h"
#include "node/start_clock.h"
#include "node/terminal.h"
#include "node/tls_options.h"
#include "node/units.h"
#include "vmm/sys/background.h"
#include "vmm/sys/start_up.h"

namespace godwit::node {

const char* const kServeExitCodes =
    "On a terminal, Ctrl-A x quits and Ctrl-A Ctrl-A sends one Ctrl-A; all other keys go to the "
    "guest.\n"
    "Exit codes: 0 the guest powered off, was stopped, or has moved to another host; 1 failed;\n"
    "2 wrong usage; 6 as 0, but the guest's kernel had panicked; 128+N ended by signal N (SIGINT "
    "130, SIGTERM 143).";

namespace {

constexpr std::chrono::seconds kArrival{2};

/// Polls, because the first entry into the guest must not pay for telling us.
void report_first_instruction(Guest& guest, const std::string& command) {
  for (int i = 0; i < 1000; ++i) {
    const std::uint64_t first = guest.first_instruction_ns();
    if (first != 0) {
      const StartClock& start = start_clock();
      fmt::print(
          stderr,
          "godwit: {}: first guest instruction {} after main() began; loading the program took "
          "{} of CPU before that\n",
          command, format_time_ms(static_cast<double>(first - start.main_ns) / 1e6),
          format_time_ms(static_cast<double>(start.loading_ns) / 1e6));
      return;
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
}

/// A second signal means that the clean end takes too long for the user.
HostEvents::Callbacks callbacks(Guest& guest, const std::string& socket_path) {
  auto signalled = std::make_shared<std::atomic<bool>>(false);
  return {[&guest](std::span<const std::byte> bytes) { return guest.type(bytes); },
          [&guest] {
            guest.end({Outcome::Kind::kStopped, 0, ""});
          },
          [&guest, signalled, socket_path](int signal) {
            if (signalled->exchange(true)) {
              ::unlink(socket_path.c_str());
              restore_terminal();
              ::_exit(kExitSignal + signal);
            }
            guest.end({Outcome::Kind::kSignal, signal, ::strsignal(signal)});
          }};
}

int report_end(const Outcome& outcome, const ServeOptions& options) {
  if (!outcome.text.empty()) {
    fmt::print(stderr, "godwit: {}: {}\n", options.command, outcome.text);
  }
  switch (outcome.kind) {
    case Outcome::Kind::kFailed:
      return kExitFailure;
    case Outcome::Kind::kSignal:
      return kExitSignal + outcome.signal;
    case Outcome::Kind::kPowerOff:
    case Outcome::Kind::kStopped:
      if (!outcome.panicked) break;
      fmt::print(stderr, "godwit: {}: the guest's kernel had panicked\n", options.command);
      return kExitPanicked;
    case Outcome::Kind::kMoved:
      break;
  }
  return kExitOk;
}

}  // namespace

void add_serve_options(Options& options) {
  options.group("Console and control")
      .value("console", "stdio|none|file:PATH", "where the guest's serial console goes", "stdio")
      .value("hvc", "stdio|none|file:PATH",
             "a second, fast console for the guest, hvc0, and where it goes (a guest that arrives "
             "has one or has not)")
      .value("api", "PATH", "control socket, instead of NAME.sock in the runtime directory")
      .group("Moves")
      .flag("rdma-pin",
            "register guest RAM with this host's RDMA devices for as long as the guest is here, so "
            "that a move has nothing to register: all of it is in memory then, touched or not");
  add_tls_options(options, "moves of this guest, away and to here, and no others");
}

namespace {

ConsoleConfig console_config(const Options& options, const char* flag) {
  try {
    return parse_console(options.text(flag));
  } catch (const std::invalid_argument& error) {
    throw UsageError(fmt::format("--{}: {}", flag, error.what()));
  }
}

}  // namespace

ConsoleConfigs console_configs(const Options& options) {
  ConsoleConfigs consoles;
  consoles.serial = console_config(options, "console");
  if (options.has("hvc")) consoles.hvc = console_config(options, "hvc");
  if (consoles.serial.kind == ConsoleConfig::Kind::kStdio &&
      consoles.hvc.kind == ConsoleConfig::Kind::kStdio) {
    throw UsageError("--hvc: the serial console has stdio: add --console none");
  }
  return consoles;
}

std::string socket_path(const Options& options, const std::string& name) {
  return options.has("api") ? options.text("api") : socket_of(name);
}

std::vector<std::string> successor_words(const Options& options, const std::string& name) {
  const std::filesystem::path socket = std::filesystem::absolute(socket_path(options, name));
  std::vector<std::string> words = {"--name", name,           "--console", options.text("console"),
                                    "--api",  socket.string()};
  if (options.has("hvc")) words.insert(words.end(), {"--hvc", options.text("hvc")});
  if (options.on("rdma-pin")) words.emplace_back("--rdma-pin");
  if (const auto files = tls_files(options)) {
    for (std::string& word : tls_words(*files)) words.push_back(std::move(word));
  }
  return words;
}

Serving::Serving(Guest& guest, std::unique_ptr<ControlSocket> socket)
    : guest_(guest),
      socket_(std::move(socket)),
      server_(std::make_unique<ControlServer>(socket_->take_listener(), guest_api(guest))) {}

int Serving::run(const ServeOptions& options) {
  Outcome outcome;
  {
    const HostEvents events(options.read_stdin, callbacks(guest_, socket_->path()));
    if (options.boot) guest_.start();
    if (options.verbose) report_first_instruction(guest_, options.command);
    // Not in the first moments of a guest that has just arrived: it and its pages are in a hurry.
    const std::jthread forgetter([this, arrived = !options.boot](const std::stop_token& stop) {
      std::mutex mutex;
      std::unique_lock lock(mutex);
      std::condition_variable_any stopped;
      if (arrived) stopped.wait_for(lock, stop, kArrival, [] { return false; });
      if (stop.stop_requested()) return;
      sys::forget_start_up();
      if (arrived) guest_.settle_in();
    });
    outcome = guest_.wait();
  }
  if (outcome.kind == Outcome::Kind::kMoved) sys::run_in_background();  // other guests go first
  server_.reset();  // lets the report of a move leave first
  socket_.reset();
  return report_end(outcome, options);
}

}  // namespace godwit::node
