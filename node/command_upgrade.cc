// upgrade: has a guest go on in a process of another version of godwit, its RAM where it is.
#include <fmt/format.h>

#include <chrono>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <thread>

#include "node/commands.h"
#include "node/control_client.h"
#include "node/exit_codes.h"
#include "node/options.h"
#include "node/report_text.h"

namespace godwit::node {

using nlohmann::json;

namespace {

/// The old process has answered; the new one may still be about to take its socket.
json status_of_successor(const ControlClient& client, const json& old_pid) {
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(5);
  for (;;) {
    try {
      json status = client.get("/v1/status");
      if (status.value("pid", json()) != old_pid) return status;
    } catch (const ClientError&) {
      if (std::chrono::steady_clock::now() > deadline) throw;
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
}

}  // namespace

int upgrade_command(const Words& words) {
  Options options(
      "upgrade NAME [OPTION...]",
      "Has a running guest go on in a new process, under this godwit or another, without copying "
      "its RAM: for a new\nversion of Godwit on a host that keeps its guests. Name, console, disks "
      "and "
      "control socket stay.",
      "NAME is a guest's name or the path of its control socket.\n"
      "Exit codes: 0 the guest runs in the new process, 1 failed before it began, 2 wrong usage,\n"
      "3 it failed and the guest goes on as before, 5 the new process was lost while it took over: "
      "see godwit resolve --help.");
  options.value("program", "PATH", "the godwit to go on with, instead of this one")
      .flag("json", "print the report as JSON")
      .argument("NAME");
  if (!options.parse(words)) return kExitOk;
  const std::filesystem::path program = options.has("program")
                                            ? std::filesystem::absolute(options.text("program"))
                                            : std::filesystem::read_symlink("/proc/self/exe");
  const ControlClient client(options.text("NAME"));
  const json before = client.get("/v1/status");
  const json report = client.post("/v1/upgrade", {{"program", program.string()}});
  const std::string result = report.value("status", "failed");
  if (options.on("json")) fmt::print("{}\n", report.dump(2));
  if (result != "completed") {
    const bool in_doubt = result == "in-doubt";
    fmt::print(stderr, "godwit: upgrade: {}; {} {}\n",
               report.value("reason", "no reason was given"), client.name(),
               in_doubt ? "is stopped: see godwit resolve --help" : "goes on as before");
    return in_doubt ? kExitInDoubt : kExitMoveFailed;
  }
  const json after = status_of_successor(client, before.value("pid", json()));
  if (!options.on("json")) {
    fmt::print("{} runs on in process {}, godwit {} (was {})\n{}", client.name(),
               after.value("pid", 0), after.value("version", "?"), before.value("version", "?"),
               report_text(report));
  }
  return kExitOk;
}

}  // namespace godwit::node
