// The subcommands of `godwit`. Each gets the words after its name and returns an exit code of
// exit_codes.h; UsageError and other exceptions are reported by main.
#pragma once

#include <span>
#include <string>
#include <vector>

namespace godwit::node {

using Words = std::vector<std::string>;

int run_command(const Words& words);
int receive_command(const Words& words);
int migrate_command(const Words& words);
int snapshot_command(const Words& words);
int restore_command(const Words& words);
int balloon_command(const Words& words);
int cancel_command(const Words& words);
int list_command(const Words& words);
int status_command(const Words& words);
int pause_command(const Words& words);
int resume_command(const Words& words);
int stop_command(const Words& words);
int resolve_command(const Words& words);
int upgrade_command(const Words& words);
int top_command(const Words& words);
int node_command(const Words& words);
int start_command(const Words& words);
int drain_command(const Words& words);
int undrain_command(const Words& words);
int mode_command(const Words& words);
int explain_command(const Words& words);
int simulate_command(const Words& words);

struct Command {
  const char* name;
  int (*run)(const Words&);
  const char* summary;
};
std::span<const Command> commands();

/// Runs the subcommand that argv names; every error is one line on stderr.
int dispatch(int argc, char** argv);

}  // namespace godwit::node
