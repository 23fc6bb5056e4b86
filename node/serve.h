// Everything around a guest in this process, from its start to the process's exit code: console,
// control socket, signals, its end. Shared by `godwit run` and `godwit receive`.
#pragma once

#include <memory>
#include <string>

#include "node/console.h"
#include "node/control_socket.h"
#include "node/guest.h"
#include "node/options.h"

namespace godwit::node {

/// --console and --api.
void add_serve_options(Options& options);
/// Throws UsageError.
ConsoleConfig console_config(const Options& options);

struct ServeOptions {
  std::string command;     // "run" or "receive", for messages
  bool read_stdin = true;  // the console is the terminal
  bool boot = true;        // call guest.start(); false for a guest that runs already
  bool verbose = false;    // say how long it took to the first guest instruction
};

/// Serves the guest until it is over and returns the exit code. HostEvents::block_signals() must
/// have been called. The control socket is gone and the terminal restored on return.
int serve(Guest& guest, std::unique_ptr<ControlSocket> socket, const ServeOptions& options);

/// The exit codes of serve(), for --help.
extern const char* const kServeExitCodes;

}  // namespace godwit::node
