#include "node/device_options.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <initializer_list>
#include <map>
#include <stdexcept>
#include <string_view>

#include "vmm/devices/virtio/tap.h"
#include "vmm/devices/virtio/vsock_packet.h"
#include "vmm/mac_address.h"

namespace godwit::node {

namespace {

using devices::Tap;
using Fields = std::map<std::string, std::string, std::less<>>;

/// "a=1,b=2" with no other fields than `allowed`, each once.
Fields fields_of(const char* flag, std::string_view text,
                 std::initializer_list<std::string_view> allowed) {
  Fields fields;
  while (!text.empty()) {
    const std::string_view part = text.substr(0, text.find(','));
    text.remove_prefix(std::min(text.size(), part.size() + 1));
    const std::size_t equals = part.find('=');
    const std::string_view name = part.substr(0, equals);
    if (std::find(allowed.begin(), allowed.end(), name) == allowed.end()) {
      throw UsageError(fmt::format("--{}: unknown field \"{}\": it has {}", flag, name,
                                   fmt::join(allowed, ", ")));
    }
    if (equals == std::string_view::npos || equals + 1 == part.size()) {
      throw UsageError(fmt::format("--{}: {} has no value", flag, name));
    }
    if (!fields.emplace(name, part.substr(equals + 1)).second) {
      throw UsageError(fmt::format("--{}: {} is given twice", flag, name));
    }
  }
  return fields;
}

std::string field_of(const Fields& fields, std::string_view name) {
  const auto found = fields.find(name);
  return found == fields.end() ? std::string() : found->second;
}

unsigned number(const char* flag, const Fields& fields, std::string_view name, unsigned low,
                unsigned high) {
  const std::string text = field_of(fields, name);
  unsigned value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || value < low || value > high) {
    throw UsageError(
        fmt::format("--{}: {} must be a whole number from {} to {}", flag, name, low, high));
  }
  return value;
}

vmm::NetConfig net_of(const Fields& fields) {
  vmm::NetConfig net;
  net.tap = field_of(fields, "tap");
  if (net.tap.empty()) throw UsageError("--net: tap=NAME is missing");
  net.bridge = field_of(fields, "bridge");
  for (const std::string& name : {net.tap, net.bridge}) {
    const std::string why = name.empty() ? "" : Tap::name_complaint(name);
    if (!why.empty()) throw UsageError(fmt::format("--net: {}: {}", name, why));
  }
  net.mac = field_of(fields, "mac");
  if (!net.mac.empty() && !vmm::parse_mac(net.mac)) {
    throw UsageError(
        fmt::format("--net: {} is no station's MAC address (02:..:..:..:..:..)", net.mac));
  }
  if (fields.contains("mtu")) {
    net.mtu = number("net", fields, "mtu", Tap::kMinMtu, Tap::kMaxMtu);
  }
  return net;
}

std::string vsock_path(const Fields& fields) {
  const std::string path = field_of(fields, "path");
  if (path.empty()) throw UsageError("--vsock: path=SOCKET is missing");
  return std::filesystem::absolute(path).lexically_normal().string();
}

void require_other_taps(const std::vector<vmm::NetConfig>& nets) {
  for (std::size_t i = 0; i < nets.size(); ++i) {
    for (std::size_t j = 0; j < i; ++j) {
      if (nets[i].tap == nets[j].tap) {
        throw UsageError(fmt::format("--net: tap {} is given twice", nets[i].tap));
      }
      if (!nets[i].mac.empty() && nets[i].mac == nets[j].mac) {
        throw UsageError(fmt::format("--net: MAC address {} is given twice", nets[i].mac));
      }
    }
  }
}

}  // namespace

void add_device_options(Options& options) {
  options
      .values("net", "tap=NAME[,mac=..][,mtu=N][,bridge=NAME]",
              "a virtio network card on a tap interface, which is created if there is none, and "
              "attached to the bridge; repeatable")
      .flag("rng", "a virtio entropy device, fed by the host")
      .flag("balloon",
            "a virtio balloon: `godwit balloon` asks for memory back; what the guest frees goes "
            "back anyway")
      .value("vsock", "cid=N,path=SOCKET",
             "virtio sockets: the host connects to SOCKET and says \"CONNECT PORT\", the guest's "
             "connections "
             "to port P of the host go to SOCKET_P");
}

void set_devices(vmm::MachineConfig& config, const Options& options) {
  for (const std::string& text : options.all("net")) {
    vmm::NetConfig net = net_of(fields_of("net", text, {"tap", "mac", "mtu", "bridge"}));
    if (net.mac.empty()) {
      net.mac = vmm::derived_mac(config.name, static_cast<unsigned>(config.nets.size()));
    }
    config.nets.push_back(std::move(net));
  }
  require_other_taps(config.nets);
  config.rng = options.on("rng");
  config.balloon = options.on("balloon");
  if (options.has("vsock")) {
    const Fields fields = fields_of("vsock", options.text("vsock"), {"cid", "path"});
    config.vsock.cid = number("vsock", fields, "cid", devices::kVsockMinCid, devices::kVsockMaxCid);
    config.vsock.path = vsock_path(fields);
  }
}

void add_arrival_options(Options& options) {
  options
      .values("net", "tap=NAME[,bridge=NAME]",
              "the tap of the guest's first network card here, instead of the one of the same "
              "name; again for its second, and so on")
      .value("vsock", "path=SOCKET", "the guest's virtio sockets are at SOCKET here");
}

Arrival arrival(const Options& options) {
  Arrival arrival;
  auto& nets = arrival.nets;
  for (const std::string& text : options.all("net")) {
    nets.push_back(net_of(fields_of("net", text, {"tap", "bridge"})));
  }
  require_other_taps(nets);
  if (options.has("vsock")) {
    arrival.vsock_path = vsock_path(fields_of("vsock", options.text("vsock"), {"path"}));
  }
  return arrival;
}

void replace_devices(vmm::MachineConfig& config, const Arrival& arrival) {
  const auto& nets = arrival.nets;
  if (nets.size() > config.nets.size()) {
    throw std::runtime_error(
        fmt::format("--net is given {} times here, the guest has {} network cards", nets.size(),
                    config.nets.size()));
  }
  for (std::size_t i = 0; i < nets.size(); ++i) {
    config.nets[i].tap = nets[i].tap;
    config.nets[i].bridge = nets[i].bridge;
  }
  if (arrival.vsock_path.empty()) return;
  if (config.vsock.cid == 0) throw std::runtime_error("--vsock is given here, the guest has none");
  config.vsock.path = arrival.vsock_path;
}

void renew_macs(vmm::MachineConfig& config) {
  for (std::size_t i = 0; i < config.nets.size(); ++i) {
    const std::string mac = vmm::derived_mac(config.name, static_cast<unsigned>(i));
    if (mac == config.nets[i].mac) {
      throw UsageError(
          fmt::format("--new-mac: {} has the address that goes with its name: add --name", mac));
    }
    config.nets[i].mac = mac;
  }
}

std::string net_text(const vmm::NetConfig& net) {
  std::string text = "tap=" + net.tap;
  if (!net.mac.empty()) text += ",mac=" + net.mac;
  if (net.mtu != 0) text += fmt::format(",mtu={}", net.mtu);
  if (!net.bridge.empty()) text += ",bridge=" + net.bridge;
  return text;
}

}  // namespace godwit::node
