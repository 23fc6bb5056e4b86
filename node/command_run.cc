// run: boots a guest and stays in the foreground as long as it runs.
#include <fmt/format.h>

#include "node/commands.h"
#include "node/exit_codes.h"
#include "node/host_events.h"
#include "node/machine_options.h"
#include "node/options.h"
#include "node/serve.h"

namespace godwit::node {

int run_command(const Words& words) {
  Options options(
      "run --name NAME --kernel PATH [OPTION...]",
      "Boots a guest and runs it in the foreground, until it powers off, is stopped, or "
      "has moved away.",
      kServeExitCodes);
  add_machine_options(options);
  add_serve_options(options);
  options.flag("verbose", "say how long it took to the first guest instruction");
  if (!options.parse(words)) return kExitOk;

  vmm::MachineConfig config = machine_config(options);
  config.console = options.has("hvc");
  const ConsoleConfigs console = console_configs(options);
  check_kvm();
  HostEvents::block_signals();
  auto socket = std::make_unique<ControlSocket>(socket_path(options, config.name),
                                                "a guest named " + config.name);
  Consoles consoles(console);
  Guest guest(config, consoles);
  guest.set_successor_words(successor_words(options, config.name));
  Serving serving(guest, std::move(socket));
  return serving.run({.command = "run",
                      .read_stdin = console.read_stdin(),
                      .boot = true,
                      .verbose = options.on("verbose")});
}

}  // namespace godwit::node
