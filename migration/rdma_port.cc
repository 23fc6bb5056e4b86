#include "migration/rdma_port.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <ifaddrs.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <filesystem>
#include <functional>
#include <optional>

namespace godwit::migration {

namespace {

using Gid = RdmaPort::Gid;

constexpr unsigned kMappedBits = 96;  // of an IPv4 address as a GID, before the address
constexpr unsigned kSubnetBits = 64;  // of an InfiniBand GID (IBTA 4.1.1)
constexpr int kMostGids = 256;

/// IPv4 mapped into IPv6 (RoCE v2, IBTA annex 17); nullopt where it is neither.
std::optional<Gid> as_gid(const sockaddr* address) {
  Gid gid{};
  if (address != nullptr && address->sa_family == AF_INET) {
    gid[10] = gid[11] = 0xff;
    std::memcpy(&gid[12], &reinterpret_cast<const sockaddr_in*>(address)->sin_addr, 4);
    return gid;
  }
  if (address != nullptr && address->sa_family == AF_INET6) {
    std::memcpy(gid.data(), &reinterpret_cast<const sockaddr_in6*>(address)->sin6_addr, 16);
    return gid;
  }
  return std::nullopt;
}

Gid local_address(int tcp_socket, std::string& text) {
  sockaddr_storage storage{};
  socklen_t size = sizeof storage;
  if (::getsockname(tcp_socket, reinterpret_cast<sockaddr*>(&storage), &size) != 0)
    fail_verb("getsockname");
  const auto gid = as_gid(reinterpret_cast<const sockaddr*>(&storage));
  if (!gid) throw RdmaError("the connection is not an IP connection");
  std::array<char, INET6_ADDRSTRLEN> buffer{};
  const bool v4 = storage.ss_family == AF_INET;
  ::inet_ntop(storage.ss_family, v4 ? &(*gid)[12] : gid->data(), buffer.data(), buffer.size());
  text = buffer.data();
  return *gid;
}

/// The interfaces of this host, one address at a time.
class Interfaces {
 public:
  Interfaces() {
    ifaddrs* raw = nullptr;
    if (::getifaddrs(&raw) != 0) fail_verb("getifaddrs");
    list_.reset(raw);
  }
  /// The one that has this address; null if none has.
  const ifaddrs* with(const Gid& address) const {
    for (const ifaddrs* at = list_.get(); at != nullptr; at = at->ifa_next) {
      if (as_gid(at->ifa_addr) == address) return at;
    }
    return nullptr;
  }

 private:
  std::unique_ptr<ifaddrs, decltype(&::freeifaddrs)> list_{nullptr, ::freeifaddrs};
};

/// Of an address of this host, as a GID; all of it where that is not known.
unsigned network_bits(const Interfaces& interfaces, const Gid& address) {
  const ifaddrs* const interface = interfaces.with(address);
  const auto mask = as_gid(interface == nullptr ? nullptr : interface->ifa_netmask);
  if (!mask) return 128;
  const bool v4 = interface->ifa_addr->sa_family == AF_INET;
  unsigned bits = v4 ? kMappedBits : 0;
  for (std::size_t i = v4 ? 12 : 0; i < mask->size(); ++i) {
    bits += static_cast<unsigned>(std::popcount((*mask)[i]));
  }
  return bits;
}

/// The InfiniBand device below an IPoIB interface that has this address; empty if there is none.
std::string infiniband_below(const Interfaces& interfaces, const Gid& address) {
  const ifaddrs* const interface = interfaces.with(address);
  if (interface == nullptr) return {};
  std::error_code none;
  const std::string folder =
      fmt::format("/sys/class/net/{}/device/infiniband", interface->ifa_name);
  for (const auto& entry : std::filesystem::directory_iterator(folder, none))
    return entry.path().filename();
  return {};
}

std::shared_ptr<RdmaDevice> open_device(ibv_device* device, const RdmaDevices& open) {
  const std::string name = ibv_get_device_name(device);
  const auto found =
      std::find_if(open.begin(), open.end(), [&](const auto& one) { return one->name == name; });
  if (found != open.end()) return *found;
  VerbsContext context(ibv_open_device(device));
  if (!context) return nullptr;
  VerbsDomain domain(usable(ibv_alloc_pd(context.get()), "ibv_alloc_pd"));
  return std::make_shared<RdmaDevice>(RdmaDevice{name, std::move(context), std::move(domain)});
}

/// Calls `visit` for each GID of each active port, until it returns true.
void each_gid(const RdmaDevices& open,
              const std::function<bool(RdmaPort&, const ibv_gid_entry&)>& visit) {
  int count = 0;
  ibv_device** devices = ibv_get_device_list(&count);
  if (devices == nullptr && errno == ENOSYS)
    throw RdmaError("this host has no RDMA device: no kernel module for one is loaded");
  if (devices == nullptr) fail_verb("ibv_get_device_list");
  const std::unique_ptr<ibv_device*, decltype(&ibv_free_device_list)> list(devices,
                                                                           ibv_free_device_list);
  if (count == 0) throw RdmaError("this host has no RDMA device");
  for (int i = 0; i < count; ++i) {
    RdmaPort port{.device = open_device(devices[i], open)};
    ibv_device_attr attributes{};
    if (!port.device || ibv_query_device(port.device->context.get(), &attributes) != 0) continue;
    for (int number = 1; number <= attributes.phys_port_cnt; ++number) {
      port.number = static_cast<std::uint8_t>(number);
      ibv_context* const context = port.device->context.get();
      if (ibv_query_port(context, port.number, &port.attributes) != 0 ||
          port.attributes.state != IBV_PORT_ACTIVE) {
        continue;
      }
      for (int index = 0; index < std::min(port.attributes.gid_tbl_len, kMostGids); ++index) {
        ibv_gid_entry entry{};
        if (ibv_query_gid_ex(context, port.number, static_cast<std::uint32_t>(index), &entry, 0) !=
            0) {
          continue;
        }
        port.gid_index = static_cast<std::uint8_t>(index);
        std::memcpy(port.gid.data(), entry.gid.raw, port.gid.size());
        if (visit(port, entry)) return;
      }
    }
  }
}

}  // namespace

MemoryRegion register_memory(const RdmaDevice& device, std::span<std::byte> bytes,
                             PeerMay peer_may) {
  // Completions, never payload bytes, tell what has arrived, so the NIC may order its writes as it
  // likes.
  const int access =
      peer_may == PeerMay::kWrite
          ? IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_RELAXED_ORDERING
      : peer_may == PeerMay::kRead ? IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_READ
                                   : IBV_ACCESS_LOCAL_WRITE;
  ibv_mr* const region = ibv_reg_mr(device.domain.get(), bytes.data(), bytes.size(), access);
  if (region == nullptr) {
    const int error = errno;
    if (error == ENOMEM) require_memlock(UINT64_MAX);
    fail_verb("ibv_reg_mr", error);
  }
  return MemoryRegion(region);
}

double RdmaPort::gigabits_per_second() const {
  // IBTA 14.2.5.6: of one lane; and the lanes.
  const auto lane = [&]() -> double {
    switch (attributes.active_speed) {
      case 1:
        return 2.5;
      case 2:
        return 5;
      case 4:
      case 8:
        return 10;
      case 16:
        return 14;
      case 32:
        return 25;
      case 64:
        return 50;
      case 128:
        return 100;
      default:
        return 0;
    }
  }();
  switch (attributes.active_width) {
    case 1:
      return lane;
    case 2:
      return lane * 4;
    case 4:
      return lane * 8;
    case 8:
      return lane * 12;
    case 16:
      return lane * 2;
    default:
      return 0;
  }
}

bool RdmaPort::reaches(std::span<const std::uint8_t> other_gid, unsigned other_bits) const {
  if (other_bits != network_bits || other_gid.size() != gid.size()) return false;
  for (unsigned bit = 0; bit < network_bits; ++bit) {
    const unsigned shift = 7 - bit % 8;
    if (((gid[bit / 8] ^ other_gid[bit / 8]) >> shift & 1) != 0) return false;
  }
  return true;
}

RdmaPort rdma_port_of(int tcp_socket, const RdmaDevices& open) {
  std::string text;
  const Gid address = local_address(tcp_socket, text);
  std::optional<std::string> infiniband;  // asked for where it matters: netlink is slow
  std::optional<RdmaPort> found;
  each_gid(open, [&](RdmaPort& port, const ibv_gid_entry& entry) {
    if (entry.gid_type == IBV_GID_TYPE_IB && !infiniband)
      infiniband = infiniband_below(Interfaces(), address);
    const bool roce = entry.gid_type == IBV_GID_TYPE_ROCE_V2 && port.gid == address;
    const bool ib = entry.gid_type == IBV_GID_TYPE_IB && *infiniband == port.device->name;
    if (roce || ib) found = port;
    return roce || ib;
  });
  if (!found) throw RdmaError(fmt::format("no active RDMA port has the address {}", text));
  return *found;
}

std::vector<RdmaPort> active_rdma_ports(const RdmaDevices& open) {
  const Interfaces interfaces;
  std::vector<RdmaPort> ports;
  each_gid(open, [&](RdmaPort& port, const ibv_gid_entry& entry) {
    const bool ib = entry.gid_type == IBV_GID_TYPE_IB;
    const bool link_local = port.gid[0] == 0xfe && (port.gid[1] & 0xc0) == 0x80;
    const bool roce = entry.gid_type == IBV_GID_TYPE_ROCE_V2 && !link_local &&
                      interfaces.with(port.gid) != nullptr;
    const bool again = !ports.empty() && ports.back() == port;
    if (again || !(ib || roce)) return false;
    port.network_bits = ib ? kSubnetBits : network_bits(interfaces, port.gid);
    ports.push_back(port);
    return false;
  });
  return ports;
}

}  // namespace godwit::migration
