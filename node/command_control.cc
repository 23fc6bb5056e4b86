// pause, resume, stop, cancel, resolve: one request each to a guest's control socket.
#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "node/commands.h"
#include "node/control_client.h"
#include "node/exit_codes.h"
#include "node/local_node.h"
#include "node/options.h"

namespace godwit::node {

using nlohmann::json;

namespace {

constexpr const char* kCodes =
    "NAME is a guest's name or the path of its control socket.\n"
    "Exit codes: 0 done, 1 failed (no such guest, or it is in no state for this), 2 wrong usage.";

}  // namespace

int pause_command(const Words& words) {
  Options options("pause NAME", "Stops the CPUs of a guest; `godwit resume` lets it run on.",
                  kCodes);
  if (!options.argument("NAME").parse(words)) return kExitOk;
  ControlClient(options.text("NAME")).put("/v1/pause", json::object());
  return kExitOk;
}

int resume_command(const Words& words) {
  Options options("resume NAME", "Lets a paused guest run on.", kCodes);
  if (!options.argument("NAME").parse(words)) return kExitOk;
  ControlClient(options.text("NAME")).put("/v1/resume", json::object());
  return kExitOk;
}

int stop_command(const Words& words) {
  Options options(
      "stop NAME [--force] [--node SOCKET]",
      "Presses the guest's ACPI power button and returns: how fast the guest shuts down, "
      "and\nwhether it does, is its own affair.",
      kCodes);
  options.flag("force", "end the guest at once, as if its power were cut").argument("NAME");
  if (!LocalNode::add_option(options).parse(words)) return kExitOk;
  const json body{{"force", options.on("force")}};
  if (options.has("node")) {
    LocalNode(options).request("DELETE", guest_target(options.text("NAME")), body, kNodeAnswers);
  } else {
    ControlClient(options.text("NAME")).put("/v1/stop", body);
  }
  return kExitOk;
}

int balloon_command(const Words& words) {
  Options options(
      "balloon NAME SIZE",
      "Asks a guest to give SIZE of its memory back to the host, in place of what it was "
      "asked before; 0 lets it\nhave all of it again. It takes its time, and gives no "
      "more than it can spare: `godwit status` shows how much.",
      kCodes);
  options.argument("NAME").argument("SIZE");
  if (!options.parse(words)) return kExitOk;
  ControlClient(options.text("NAME")).put("/v1/balloon", {{"bytes", options.size("SIZE")}});
  return kExitOk;
}

int cancel_command(const Words& words) {
  Options options(
      "cancel NAME",
      "Cancels the move or the snapshot of a guest. The guest goes on here; `godwit migrate` or "
      "`snapshot`\nreports it.",
      kCodes);
  if (!options.argument("NAME").parse(words)) return kExitOk;
  ControlClient(options.text("NAME")).remove("/v1/migration");
  return kExitOk;
}

int resolve_command(const Words& words) {
  Options options("resolve NAME --here|--there",
                  "Decides about a guest whose move lost its connection while it was being "
                  "committed: it is stopped\nhere, and may or may not run at the destination. Look "
                  "there first (`godwit list`). Running it at\nboth ends corrupts its disks.",
                  kCodes);
  options.flag("here", "it does not run at the destination: let it run on here")
      .flag("there", "it runs at the destination: end it here")
      .argument("NAME");
  if (!options.parse(words)) return kExitOk;
  if (options.on("here") == options.on("there")) throw UsageError("say either --here or --there");
  ControlClient(options.text("NAME")).put("/v1/resolve", {{"here", options.on("here")}});
  return kExitOk;
}

}  // namespace godwit::node
