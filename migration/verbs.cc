#include "migration/verbs.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <ifaddrs.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/resource.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <optional>
#include <random>
#include <vector>

namespace godwit::migration {

namespace {

// 4.096 us x 2^16 is 268 ms; with 6 retries a dead peer shows within about two seconds. 7 would
// mean for ever on rxe.
constexpr std::uint8_t kTimeout = 16;
constexpr std::uint8_t kReads = 4;  // under way at once; every device has that many
constexpr std::uint8_t kRetries = 6;
constexpr std::uint8_t kReceiverNotReadyTimer = 12;  // 0.64 ms, IBTA table 45

[[noreturn]] void fail(const char* verb, int error_number = errno) {
  throw RdmaError(fmt::format("{}: {}", verb, std::strerror(error_number)));
}

using RawGid = std::array<std::uint8_t, 16>;

/// The local address of a connection as a GID: IPv4 mapped into IPv6 (RoCE v2, IBTA annex 17).
RawGid local_address(int tcp_socket, std::string& text) {
  sockaddr_storage storage{};
  socklen_t size = sizeof storage;
  if (::getsockname(tcp_socket, reinterpret_cast<sockaddr*>(&storage), &size) != 0)
    fail("getsockname");
  RawGid gid{};
  std::array<char, INET6_ADDRSTRLEN> buffer{};
  if (storage.ss_family == AF_INET) {
    const auto& in = reinterpret_cast<const sockaddr_in&>(storage);
    gid[10] = gid[11] = 0xff;
    std::memcpy(&gid[12], &in.sin_addr, 4);
    ::inet_ntop(AF_INET, &in.sin_addr, buffer.data(), buffer.size());
  } else if (storage.ss_family == AF_INET6) {
    const auto& in = reinterpret_cast<const sockaddr_in6&>(storage);
    std::memcpy(gid.data(), &in.sin6_addr, 16);
    ::inet_ntop(AF_INET6, &in.sin6_addr, buffer.data(), buffer.size());
  } else {
    throw RdmaError("the connection is not an IP connection");
  }
  text = buffer.data();
  return gid;
}

/// The InfiniBand device below an IPoIB interface that has this address; empty if there is none.
std::string infiniband_below(const RawGid& address) {
  ifaddrs* raw = nullptr;
  if (::getifaddrs(&raw) != 0) fail("getifaddrs");
  const std::unique_ptr<ifaddrs, decltype(&::freeifaddrs)> list(raw, ::freeifaddrs);
  for (const ifaddrs* at = raw; at != nullptr; at = at->ifa_next) {
    if (at->ifa_addr == nullptr || at->ifa_addr->sa_family != AF_INET) continue;
    const auto& in = reinterpret_cast<const sockaddr_in&>(*at->ifa_addr);
    if (std::memcmp(&in.sin_addr, &address[12], 4) != 0) continue;
    std::error_code none;
    const std::string folder = fmt::format("/sys/class/net/{}/device/infiniband", at->ifa_name);
    for (const auto& entry : std::filesystem::directory_iterator(folder, none))
      return entry.path().filename();
  }
  return {};
}

struct Place {
  VerbsContext context;
  std::uint8_t port = 0;
  std::uint8_t gid_index = 0;
  ibv_port_attr attributes{};
  RawGid gid{};
};

/// The active port whose GID is the address (RoCE v2), or which carries it as IPoIB.
Place find_place(const RawGid& address, const std::string& text) {
  int count = 0;
  ibv_device** devices = ibv_get_device_list(&count);
  if (devices == nullptr && errno == ENOSYS)
    throw RdmaError("this host has no RDMA device: no kernel module for one is loaded");
  if (devices == nullptr) fail("ibv_get_device_list");
  const std::unique_ptr<ibv_device*, decltype(&ibv_free_device_list)> list(devices,
                                                                           ibv_free_device_list);
  if (count == 0) throw RdmaError("this host has no RDMA device");
  std::optional<std::string> infiniband;  // asked for where it matters: netlink is slow
  for (int i = 0; i < count; ++i) {
    Place place{.context = VerbsContext(ibv_open_device(devices[i]))};
    ibv_device_attr attributes{};
    if (!place.context || ibv_query_device(place.context.get(), &attributes) != 0) continue;
    for (int port = 1; port <= attributes.phys_port_cnt; ++port) {
      place.port = static_cast<std::uint8_t>(port);
      if (ibv_query_port(place.context.get(), place.port, &place.attributes) != 0 ||
          place.attributes.state != IBV_PORT_ACTIVE) {
        continue;
      }
      for (int index = 0; index < place.attributes.gid_tbl_len && index < 256; ++index) {
        ibv_gid_entry entry{};
        if (ibv_query_gid_ex(place.context.get(), place.port, static_cast<std::uint32_t>(index),
                             &entry, 0) != 0) {
          continue;
        }
        const bool roce = entry.gid_type == IBV_GID_TYPE_ROCE_V2 &&
                          std::memcmp(entry.gid.raw, address.data(), address.size()) == 0;
        if (entry.gid_type == IBV_GID_TYPE_IB && !infiniband)
          infiniband = infiniband_below(address);
        const bool ib =
            entry.gid_type == IBV_GID_TYPE_IB && *infiniband == ibv_get_device_name(devices[i]);
        if (!roce && !ib) continue;
        place.gid_index = static_cast<std::uint8_t>(index);
        std::memcpy(place.gid.data(), entry.gid.raw, place.gid.size());
        return place;
      }
    }
  }
  throw RdmaError(fmt::format("no active RDMA port has the address {}", text));
}

bool may_pin_without_limit() {
  std::ifstream status("/proc/self/status");
  constexpr unsigned kCapIpcLock = 14;  // capabilities(7)
  for (std::string line; std::getline(status, line);) {
    if (line.rfind("CapEff:", 0) == 0) {
      return (std::stoull(line.substr(7), nullptr, 16) >> kCapIpcLock & 1) != 0;
    }
  }
  return false;
}

template <typename T>
T* usable(T* object, const char* verb) {
  if (object == nullptr) fail(verb);
  return object;
}

}  // namespace

void load_rdma_drivers() noexcept {
  int count = 0;
  if (ibv_device** devices = ibv_get_device_list(&count)) ibv_free_device_list(devices);
}

void require_memlock(std::uint64_t bytes) {
  rlimit limit{};
  if (::getrlimit(RLIMIT_MEMLOCK, &limit) != 0) fail("getrlimit");
  if (limit.rlim_cur == RLIM_INFINITY || limit.rlim_cur >= bytes || may_pin_without_limit()) return;
  throw RdmaError(
      fmt::format("RDMA pins guest RAM: this process may lock {} KiB and needs {} KiB: raise it "
                  "with `ulimit -l unlimited` before "
                  "starting godwit, LimitMEMLOCK=infinity in its systemd unit, or memlock in "
                  "/etc/security/limits.conf",
                  limit.rlim_cur / 1024, bytes / 1024));
}

RdmaEndpoint::RdmaEndpoint(int tcp_socket, PeerMay peer_may) : peer_may_(peer_may) {
  open(tcp_socket);
  domain_.reset(usable(ibv_alloc_pd(context_.get()), "ibv_alloc_pd"));
  events_.reset(usable(ibv_create_comp_channel(context_.get()), "ibv_create_comp_channel"));
  const auto queue = [&](std::uint32_t depth) {
    return VerbsQueue(
        usable(ibv_create_cq(context_.get(), static_cast<int>(depth), nullptr, events_.get(), 0),
               "ibv_create_cq"));
  };
  sends_ = queue(kSendDepth + 1);
  receives_ = queue(kReceiveDepth + 1);
  ibv_qp_init_attr attributes{};
  attributes.send_cq = sends_.get();
  attributes.recv_cq = receives_.get();
  attributes.qp_type = IBV_QPT_RC;
  attributes.cap = {.max_send_wr = kSendDepth,
                    .max_recv_wr = kReceiveDepth,
                    .max_send_sge = 1,
                    .max_recv_sge = 1,
                    .max_inline_data = 0};
  pair_.reset(usable(ibv_create_qp(domain_.get(), &attributes), "ibv_create_qp"));
  address_.qp_number = pair_->qp_num;
  address_.packet_sequence = std::random_device{}() & 0xffffff;

  ibv_qp_attr init{};
  init.qp_state = IBV_QPS_INIT;
  init.port_num = port_;
  init.qp_access_flags = peer_may_ == PeerMay::kWrite  ? IBV_ACCESS_REMOTE_WRITE
                         : peer_may_ == PeerMay::kRead ? IBV_ACCESS_REMOTE_READ
                                                       : 0;
  if (const int error =
          ibv_modify_qp(pair_.get(), &init,
                        IBV_QP_STATE | IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_ACCESS_FLAGS)) {
    fail("ibv_modify_qp to INIT", error);
  }
  post_receives(kReceiveDepth);  // before the peer can know our address: its first SEND finds one
}

void RdmaEndpoint::open(int tcp_socket) {
  std::string text;
  const RawGid address = local_address(tcp_socket, text);
  Place place = find_place(address, text);
  context_ = std::move(place.context);
  port_ = place.port;
  gid_index_ = place.gid_index;
  max_message_ = place.attributes.max_msg_sz;
  address_.lid = place.attributes.lid;
  address_.mtu = static_cast<std::uint8_t>(place.attributes.active_mtu);
  address_.ethernet = place.attributes.link_layer == IBV_LINK_LAYER_ETHERNET;
  address_.gid.assign(place.gid.begin(), place.gid.end());
}

void RdmaEndpoint::connect(const RdmaAddress& peer) {
  if (peer.ethernet != address_.ethernet)
    throw RdmaError("one end is on InfiniBand, the other on Ethernet");
  ibv_qp_attr ready{};
  ready.qp_state = IBV_QPS_RTR;
  ready.path_mtu = static_cast<ibv_mtu>(std::min(peer.mtu, address_.mtu));
  ready.dest_qp_num = peer.qp_number;
  ready.rq_psn = peer.packet_sequence;
  ready.max_dest_rd_atomic = kReads;
  ready.min_rnr_timer = kReceiverNotReadyTimer;
  ready.ah_attr.is_global = 1;
  ready.ah_attr.dlid = peer.lid;
  ready.ah_attr.port_num = port_;
  ready.ah_attr.grh.hop_limit = 64;
  ready.ah_attr.grh.sgid_index = gid_index_;
  std::memcpy(ready.ah_attr.grh.dgid.raw, peer.gid.data(), sizeof ready.ah_attr.grh.dgid.raw);
  if (const int error =
          ibv_modify_qp(pair_.get(), &ready,
                        IBV_QP_STATE | IBV_QP_AV | IBV_QP_PATH_MTU | IBV_QP_DEST_QPN |
                            IBV_QP_RQ_PSN | IBV_QP_MAX_DEST_RD_ATOMIC | IBV_QP_MIN_RNR_TIMER)) {
    fail("ibv_modify_qp to RTR", error);
  }
  ibv_qp_attr send{};
  send.qp_state = IBV_QPS_RTS;
  send.timeout = kTimeout;
  send.retry_cnt = kRetries;
  send.rnr_retry = kRetries;
  send.sq_psn = address_.packet_sequence;
  send.max_rd_atomic = kReads;
  if (const int error =
          ibv_modify_qp(pair_.get(), &send,
                        IBV_QP_STATE | IBV_QP_TIMEOUT | IBV_QP_RETRY_CNT | IBV_QP_RNR_RETRY |
                            IBV_QP_SQ_PSN | IBV_QP_MAX_QP_RD_ATOMIC)) {
    fail("ibv_modify_qp to RTS", error);
  }
}

MemoryRegion RdmaEndpoint::register_memory(std::span<std::byte> bytes) {
  // Completions, never payload bytes, tell what has arrived, so the NIC may order its writes as it
  // likes.
  return register_for(
      bytes, peer_may_ == PeerMay::kWrite
                 ? IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_RELAXED_ORDERING
             : peer_may_ == PeerMay::kRead ? IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_READ
                                           : IBV_ACCESS_LOCAL_WRITE);
}

MemoryRegion RdmaEndpoint::register_own(std::span<std::byte> bytes) {
  return register_for(bytes, IBV_ACCESS_LOCAL_WRITE);
}

MemoryRegion RdmaEndpoint::register_for(std::span<std::byte> bytes, int access) {
  ibv_mr* region = ibv_reg_mr(domain_.get(), bytes.data(), bytes.size(), access);
  if (region == nullptr) {
    if (errno == ENOMEM) require_memlock(UINT64_MAX);
    fail("ibv_reg_mr");
  }
  return MemoryRegion(region);
}

void RdmaEndpoint::post_receives(std::uint32_t count) {
  for (std::uint32_t i = 0; i < count; ++i) {
    ibv_recv_wr receive{};  // markers carry no bytes
    ibv_recv_wr* bad = nullptr;
    if (const int error = ibv_post_recv(pair_.get(), &receive, &bad)) fail("ibv_post_recv", error);
  }
}

void RdmaEndpoint::post_send(ibv_send_wr& chain) {
  ibv_send_wr* bad = nullptr;
  if (const int error = ibv_post_send(pair_.get(), &chain, &bad)) fail("ibv_post_send", error);
}

namespace {

/// Calls `each` for every completion that is there.
template <typename Each>
void poll_all(ibv_cq* queue, Each each) {
  std::array<ibv_wc, 32> completions;
  for (;;) {
    const int count = ibv_poll_cq(queue, static_cast<int>(completions.size()), completions.data());
    if (count < 0) throw RdmaError("ibv_poll_cq failed");
    for (int i = 0; i < count; ++i) {
      const ibv_wc& completion = completions[static_cast<std::size_t>(i)];
      if (completion.status != IBV_WC_SUCCESS) {
        throw RdmaError(fmt::format("RDMA failed: {}", ibv_wc_status_str(completion.status)));
      }
      each(completion);
    }
    if (count == 0) return;
  }
}

}  // namespace

std::uint64_t RdmaEndpoint::reap_sends() {
  std::uint64_t sum = 0;
  poll_all(sends_.get(), [&](const ibv_wc& completion) { sum += completion.wr_id; });
  return sum;
}

std::uint64_t RdmaEndpoint::reap_receives() {
  std::uint32_t count = 0;
  poll_all(receives_.get(), [&](const ibv_wc&) { ++count; });
  post_receives(count);
  return count;
}

void RdmaEndpoint::arm() {
  for (ibv_cq* queue : {sends_.get(), receives_.get()}) {
    if (const int error = ibv_req_notify_cq(queue, 0)) fail("ibv_req_notify_cq", error);
  }
}

void RdmaEndpoint::drain_events() {
  pollfd poll{events_->fd, POLLIN, 0};
  while (::poll(&poll, 1, 0) == 1) {
    ibv_cq* queue = nullptr;
    void* unused = nullptr;
    if (ibv_get_cq_event(events_.get(), &queue, &unused) != 0) fail("ibv_get_cq_event");
    ibv_ack_cq_events(queue, 1);
  }
}

}  // namespace godwit::migration
