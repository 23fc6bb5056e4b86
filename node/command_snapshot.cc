// snapshot: asks the guest's process for a snapshot, and reports how it went.
#include <fmt/format.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <ctime>
#include <exception>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <thread>

#include "node/commands.h"
#include "node/control_client.h"
#include "node/exit_codes.h"
#include "node/options.h"
#include "node/units.h"

namespace godwit::node {

using nlohmann::json;

namespace {

constexpr const char* kHelp =
    "NAME is a guest's name or the path of its control socket. DIR is made, and must not exist. It "
    "holds\n"
    "the guest's memory and state, not its disks: `godwit restore` wants them as they were, so "
    "either\n"
    "end the guest with --stop, or copy them while it is paused (godwit pause, snapshot, cp, "
    "resume).\n"
    "Ctrl-C cancels it. Exit codes: 0 done, 1 failed, 2 wrong usage, 4 cancelled.";

/// Blocks until the report is there; SIGINT and SIGTERM cancel the snapshot.
json take(const ControlClient& client, const json& body) {
  sigset_t signals;
  sigemptyset(&signals);
  for (const int number : {SIGINT, SIGTERM, SIGUSR1}) sigaddset(&signals, number);
  ::pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  json report;
  std::exception_ptr error;
  std::atomic<bool> answered = false;
  std::thread call([&] {
    try {
      report = client.post("/v1/snapshot", body);
    } catch (...) {
      error = std::current_exception();
    }
    answered = true;
    ::kill(::getpid(), SIGUSR1);
  });
  while (!answered) {
    int number = 0;
    if (::sigwait(&signals, &number) != 0 || number == SIGUSR1) continue;
    try {
      client.remove("/v1/migration");
    } catch (const std::exception& too_late) {
      fmt::print(stderr, "godwit: snapshot: {}\n", too_late.what());
    }
  }
  call.join();
  if (error) std::rethrow_exception(error);
  return report;
}

}  // namespace

int snapshot_command(const Words& words) {
  Options options("snapshot NAME DIR [OPTION...]",
                  "Writes a guest's memory and state into DIR. Memory is written while the guest "
                  "runs; it is paused only\nfor what it changed meanwhile.",
                  kHelp);
  options.flag("stop", "end the guest once its snapshot is complete, instead of letting it run on")
      .flag("json", "print the report as JSON")
      .argument("NAME")
      .argument("DIR");
  if (!options.parse(words)) return kExitOk;
  std::string directory =
      std::filesystem::absolute(options.text("DIR")).lexically_normal().string();
  while (directory.size() > 1 && directory.back() == '/') directory.pop_back();
  const ControlClient client(options.text("NAME"));
  const json report = take(client, {{"directory", directory}, {"stop", options.on("stop")}});
  const std::string status = report.value("status", "failed");
  if (status != "completed") {
    fmt::print(stderr, "godwit: snapshot: {}; {} is {}\n", report.value("reason", ""),
               client.name(), report.value("guest_state", "as it was"));
  }
  if (options.on("json")) {
    fmt::print("{}\n", report.dump(2));
  } else if (status == "completed") {
    fmt::print(
        "the snapshot of {} is {}\n  total      {}\n  pause      {}\n  memory     {} in {} "
        "rounds\n",
        client.name(), directory, format_time_ms(report.value("total_ms", 0.0)),
        format_time_ms(report.value("pause_ms", 0.0)),
        format_size(report["bytes"].value("ram", std::uint64_t{0})), report["rounds"].size());
  }
  if (status == "completed") return kExitOk;
  return status == "cancelled" ? kExitCancelled : kExitFailure;
}

}  // namespace godwit::node
