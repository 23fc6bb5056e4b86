// A port of an RDMA device, found by the IP address that a connection has here, or by the network
// that it is on. Devices are shared: memory regions and queue pairs of one belong to one protection
// domain.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "migration/verbs.h"

namespace godwit::migration {

/// An opened device.
struct RdmaDevice {
  std::string name;
  VerbsContext context;
  VerbsDomain domain;
};
using RdmaDevices = std::vector<std::shared_ptr<RdmaDevice>>;

/// Any thread. Throws RdmaError.
MemoryRegion register_memory(const RdmaDevice& device, std::span<std::byte> bytes,
                             PeerMay peer_may);

struct RdmaPort {
  using Gid = std::array<std::uint8_t, 16>;

  std::shared_ptr<RdmaDevice> device;
  std::uint8_t number = 1;
  std::uint8_t gid_index = 0;
  Gid gid{};
  unsigned network_bits = 128;  // so many of the GID's first bits name the network, where known
  ibv_port_attr attributes{};

  bool ethernet() const { return attributes.link_layer == IBV_LINK_LAYER_ETHERNET; }
  /// What its link carries, 0 where the device does not say.
  double gigabits_per_second() const;
  /// Whether a port with this GID, with so many bits of network, is on the same network.
  bool reaches(std::span<const std::uint8_t> other_gid, unsigned other_bits) const;
  bool operator==(const RdmaPort& other) const {
    return device->name == other.device->name && number == other.number;
  }
};

/// The active port that has the local address of a TCP connection (RoCE v2), or carries it as
/// IPoIB; its network_bits are not looked up. Of `open` devices none is opened a second time.
/// Throws RdmaError saying why there is none.
RdmaPort rdma_port_of(int tcp_socket, const RdmaDevices& open = {});

/// All active ports that have an IP address of their own (RoCE v2) or are InfiniBand's; a device's
/// ports share it. Throws RdmaError where there is no RDMA at all.
std::vector<RdmaPort> active_rdma_ports(const RdmaDevices& open = {});

}  // namespace godwit::migration
