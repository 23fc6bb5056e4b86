#include "migration/machine_json.h"

#include <fmt/format.h>

#include "migration/channel.h"

namespace godwit::migration {

using nlohmann::json;

namespace {
// The longest texts, bytes.
constexpr std::size_t kMaxName = 64;
constexpr std::size_t kMaxPath = 4096;
constexpr std::size_t kMaxCommandLine = 65536;
}  // namespace

void out_of_range(const char* name) {
  throw ChannelError(fmt::format("the peer's \"{}\" is out of range", name));
}

void get_text(const json& from, const char* name, std::size_t most, std::string& into) {
  from.at(name).get_to(into);
  if (into.size() > most || into.find('\0') != std::string::npos) out_of_range(name);
}

json to_json(const vmm::MachineConfig& machine) {
  json disks = json::array();
  for (const auto& disk : machine.disks) {
    disks.push_back({{"path", disk.path},
                     {"read_only", disk.read_only},
                     {"direct", disk.direct},
                     {"serial", disk.serial}});
  }
  json nets = json::array();
  for (const auto& net : machine.nets) {
    nets.push_back({{"tap", net.tap}, {"mac", net.mac}, {"mtu", net.mtu}, {"bridge", net.bridge}});
  }
  return {{"name", machine.name},
          {"memory_bytes", machine.memory_bytes},
          {"cpus", machine.cpus},
          {"cpu", machine.cpu},
          {"huge_pages", machine.huge_pages},
          {"disks", disks},
          {"nets", nets},
          {"rng", machine.rng},
          {"balloon", machine.balloon},
          {"vsock", {{"cid", machine.vsock.cid}, {"path", machine.vsock.path}}},
          {"console", machine.console},
          {"kernel", machine.kernel},
          {"initrd", machine.initrd},
          {"command_line", machine.command_line}};
}

vmm::MachineConfig machine_config(const json& from) {
  vmm::MachineConfig machine;
  get_text(from, "name", kMaxName, machine.name);
  get_number(from, "memory_bytes", machine.memory_bytes);
  get_number(from, "cpus", machine.cpus);
  get_text(from, "cpu", kMaxName, machine.cpu);
  from.at("huge_pages").get_to(machine.huge_pages);
  from.at("rng").get_to(machine.rng);
  from.at("balloon").get_to(machine.balloon);
  get_number(from.at("vsock"), "cid", machine.vsock.cid);
  get_text(from.at("vsock"), "path", kMaxPath, machine.vsock.path);
  from.at("console").get_to(machine.console);
  get_text(from, "kernel", kMaxPath, machine.kernel);
  get_text(from, "initrd", kMaxPath, machine.initrd);
  get_text(from, "command_line", kMaxCommandLine, machine.command_line);
  for (const json& disk : from.at("disks")) {
    vmm::DiskConfig& config = machine.disks.emplace_back();
    get_text(disk, "path", kMaxPath, config.path);
    disk.at("read_only").get_to(config.read_only);
    disk.at("direct").get_to(config.direct);
    get_text(disk, "serial", kMaxName, config.serial);
  }
  for (const json& net : from.at("nets")) {
    vmm::NetConfig& config = machine.nets.emplace_back();
    get_text(net, "tap", kMaxName, config.tap);
    get_text(net, "mac", kMaxName, config.mac);
    get_number(net, "mtu", config.mtu);
    get_text(net, "bridge", kMaxName, config.bridge);
  }
  return machine;
}

}  // namespace godwit::migration
