#include "node/commands.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <string_view>

#include "node/exit_codes.h"
#include "node/options.h"

#ifndef GODWIT_VERSION
#error "GODWIT_VERSION comes from CMake"
#endif

namespace godwit::node {

namespace {

constexpr std::array<Command, 22> kCommands{{
    {"run", run_command, "boot a guest and run it in the foreground"},
    {"receive", receive_command, "take one guest from another host and run it"},
    {"migrate", migrate_command, "move a running guest to another host"},
    {"cancel", cancel_command, "cancel a move or a snapshot; the guest goes on here"},
    {"snapshot", snapshot_command, "write a guest's memory and state into a directory"},
    {"restore", restore_command, "run a guest from a snapshot"},
    {"list", list_command, "show the guests of this host"},
    {"status", status_command, "show one guest"},
    {"pause", pause_command, "stop a guest's CPUs"},
    {"resume", resume_command, "let a paused guest run on"},
    {"balloon", balloon_command, "ask a guest to give memory back"},
    {"stop", stop_command, "press a guest's power button, or end it with --force"},
    {"upgrade", upgrade_command, "have a guest go on under another version of godwit"},
    {"resolve", resolve_command, "decide where a guest runs after a move lost its connection"},
    {"top", top_command, "watch a node: hosts, guests, moves, decisions"},
    {"node", node_command, "keep the guests of this host and balance them with its peers"},
    {"start", start_command, "have the node start a guest in the background"},
    {"drain", drain_command, "move all guests of this host away and keep it closed"},
    {"undrain", undrain_command, "open a drained host again"},
    {"mode", mode_command, "say what the balancer may do: off, advise, automatic"},
    {"explain", explain_command, "show what the balancer decided, and why"},
    {"simulate", simulate_command, "run a day of load traces through the balancer"},
}};

void print_usage(std::FILE* stream) {
  fmt::print(stream,
             "Usage: godwit COMMAND [OPTION...]\n\n"
             "Runs virtual machines on KVM and moves them, live, between hosts.\n\nCommands:\n");
  for (const Command& command : kCommands) {
    fmt::print(stream, "  {:<9} {}\n", command.name, command.summary);
  }
  fmt::print(
      stream,
      "\n`godwit COMMAND --help` explains one. `godwit --version` prints the version.\n"
      "Exit codes: 0 done, 1 failed, 2 wrong usage; `migrate`, `snapshot` and `run` have more.\n");
}

/// Messages may quote what a user or a peer sent: whatever it was, this stays one line of text.
std::string one_line(std::string_view text) {
  std::string line(text);
  std::replace_if(
      line.begin(), line.end(), [](char c) { return static_cast<unsigned char>(c) < 0x20; }, ' ');
  return line;
}

int run_reporting(const Command& command, const Words& words) {
  try {
    const int code = command.run(words);
    if (std::fflush(stdout) != 0) throw std::runtime_error("cannot write to standard output");
    return code;
  } catch (const UsageError& error) {
    fmt::print(stderr, "godwit: {}: {}\n", command.name, one_line(error.what()));
    return kExitUsage;
  } catch (const std::exception& error) {
    fmt::print(stderr, "godwit: {}: {}\n", command.name, one_line(error.what()));
    return kExitFailure;
  }
}

}  // namespace

std::span<const Command> commands() { return kCommands; }

int dispatch(int argc, char** argv) {
  const Words words(argv + std::min(argc, 1), argv + argc);
  if (words.empty()) {
    print_usage(stderr);
    return kExitUsage;
  }
  const std::string& first = words.front();
  if (first == "--help" || first == "-h" || first == "help") {
    print_usage(stdout);
    return kExitOk;
  }
  if (first == "--version") {
    fmt::print("godwit {}\n", GODWIT_VERSION);
    return kExitOk;
  }
  for (const Command& command : kCommands) {
    if (first == command.name) return run_reporting(command, {words.begin() + 1, words.end()});
  }
  fmt::print(stderr, "godwit: {} is no command; godwit --help lists them\n", one_line(first));
  return kExitUsage;
}

}  // namespace godwit::node
