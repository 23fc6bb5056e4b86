// restore: runs a guest from a snapshot, in the foreground, as `godwit run` does.
#include <fmt/format.h>

#include <filesystem>

#include "migration/snapshot.h"
#include "node/commands.h"
#include "node/device_options.h"
#include "node/exit_codes.h"
#include "node/host_events.h"
#include "node/machine_options.h"
#include "node/options.h"
#include "node/serve.h"

namespace godwit::node {

namespace {

std::vector<std::string> disk_paths(const Options& options, const vmm::MachineConfig& machine) {
  std::vector<std::string> paths;
  for (const std::string& path : options.all("disk")) {
    paths.push_back(std::filesystem::absolute(path).lexically_normal().string());
  }
  if (!paths.empty() && paths.size() != machine.disks.size()) {
    throw UsageError(fmt::format("--disk: the snapshot has {} disks, {} are given",
                                 machine.disks.size(), paths.size()));
  }
  return paths;
}

void verify(const migration::OpenSnapshot& open, const std::string& directory) {
  const std::uint64_t checksum =
      migration::checksum_of_memory(open.memory.get(), open.snapshot.machine.memory_bytes);
  if (checksum != open.snapshot.memory_checksum) {
    throw std::runtime_error(directory + "/memory: damaged: its checksum does not match");
  }
}

}  // namespace

int restore_command(const Words& words) {
  Options options(
      "restore DIR [OPTION...]",
      "Runs a guest from a snapshot in the foreground. Its memory is read from DIR when it is "
      "touched, and\nnever written there: several guests can run from one snapshot, each under "
      "a name and with disks of\nits own. DIR must not be changed or removed meanwhile.",
      kServeExitCodes);
  options.value("name", "NAME", "call the guest NAME here")
      .values("disk", "PATH",
              "a copy of a disk as it was at the time of the snapshot, one for each of the guest's "
              "disks, in their order; repeatable")
      .flag("new-mac",
            "network cards with MAC addresses that go with NAME, not those of the snapshot; the "
            "guest's driver looks at them when it is bound next")
      .flag("verify", "read all of its memory first and compare the checksum");
  add_arrival_options(options);
  add_serve_options(options);
  options.flag("verbose", "say how long it took to the first guest instruction").argument("DIR");
  if (!options.parse(words)) return kExitOk;

  const std::string directory = options.text("DIR");
  const ConsoleConfigs console = console_configs(options);
  migration::OpenSnapshot open = migration::open_snapshot(directory);
  vmm::MachineConfig& machine = open.snapshot.machine;
  if (options.has("name")) machine.name = options.text("name");
  if (const std::string why = name_complaint(machine.name); !why.empty()) {
    throw UsageError("--name: " + why);
  }
  replace_devices(machine, arrival(options));
  if (options.on("new-mac")) renew_macs(machine);
  const std::vector<std::string> disks = disk_paths(options, machine);
  if (options.on("verify")) verify(open, directory);
  check_kvm();
  HostEvents::block_signals();
  auto socket = std::make_unique<ControlSocket>(socket_path(options, machine.name),
                                                "a guest named " + machine.name);
  Consoles consoles(console);
  auto restored = migration::restore_machine(std::move(open), consoles.sink(), disks);
  Guest guest(restored->config(), consoles, Guest::Arriving{});
  Serving serving(guest, std::move(socket));
  restored->resume();
  guest.arrived(std::move(restored), nullptr);
  return serving.run({.command = "restore",
                      .read_stdin = console.read_stdin(),
                      .boot = false,
                      .verbose = options.on("verbose")});
}

}  // namespace godwit::node
