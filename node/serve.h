// Everything around a guest in this process, from its control socket to the process's exit code.
// Shared by `godwit run` and `godwit receive`.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "node/console.h"
#include "node/control_server.h"
#include "node/control_socket.h"
#include "node/guest.h"
#include "node/options.h"

namespace godwit::node {

/// --console, --hvc, --api, --rdma-pin and those of TLS.
void add_serve_options(Options& options);
/// Throws UsageError.
ConsoleConfigs console_configs(const Options& options);
/// Path of the control socket: --api, or the guest's in the runtime directory.
std::string socket_path(const Options& options, const std::string& name);

/// What a successor of this process is told so that it serves the guest in the same way.
std::vector<std::string> successor_words(const Options& options, const std::string& name);

struct ServeOptions {
  std::string command;     // "run" or "receive", for messages
  bool read_stdin = true;  // the console is the terminal
  bool boot = true;        // call guest.start(); false for a guest that runs already
  bool verbose = false;    // say how long it took to the first guest instruction
};

class Serving {
 public:
  /// From here on the control API answers. `guest` must outlive it.
  Serving(Guest& guest, std::unique_ptr<ControlSocket> socket);

  /// Serves the guest until it is over and returns the exit code; by then the control socket is
  /// gone and the terminal as before. HostEvents::block_signals() must have been called. Once.
  int run(const ServeOptions& options);

  /// See ControlSocket::rename().
  void rename_socket(const std::string& path) { socket_->rename(path); }

 private:
  Guest& guest_;
  std::unique_ptr<ControlSocket> socket_;
  std::unique_ptr<ControlServer> server_;
};

/// The exit codes of Serving, for --help.
extern const char* const kServeExitCodes;

}  // namespace godwit::node
