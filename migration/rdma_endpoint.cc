#include "migration/rdma_endpoint.h"

#include <fmt/format.h>
#include <poll.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <random>

namespace godwit::migration {

namespace {

// 4.096 us x 2^16 is 268 ms; with 6 retries a dead peer shows within about two seconds. 7 would
// mean for ever on rxe.
constexpr std::uint8_t kTimeout = 16;
constexpr std::uint8_t kReads = 4;  // under way at once; every device has that many
constexpr std::uint8_t kRetries = 6;
constexpr std::uint8_t kReceiverNotReadyTimer = 12;  // 0.64 ms, IBTA table 45

}  // namespace

RdmaEndpoint::RdmaEndpoint(const RdmaPort& port, PeerMay peer_may)
    : port_(port), peer_may_(peer_may) {
  ibv_context* const context = port_.device->context.get();
  events_.reset(usable(ibv_create_comp_channel(context), "ibv_create_comp_channel"));
  const auto queue = [&](std::uint32_t depth) {
    return VerbsQueue(
        usable(ibv_create_cq(context, static_cast<int>(depth), nullptr, events_.get(), 0),
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
  pair_.reset(usable(ibv_create_qp(port_.device->domain.get(), &attributes), "ibv_create_qp"));
  address_.qp_number = pair_->qp_num;
  address_.packet_sequence = std::random_device{}() & 0xffffff;
  address_.lid = port_.attributes.lid;
  address_.mtu = static_cast<std::uint8_t>(port_.attributes.active_mtu);
  address_.ethernet = port_.ethernet();
  address_.gid.assign(port_.gid.begin(), port_.gid.end());
  address_.network_bits = port_.network_bits;

  ibv_qp_attr init{};
  init.qp_state = IBV_QPS_INIT;
  init.port_num = port_.number;
  init.qp_access_flags = peer_may == PeerMay::kWrite  ? IBV_ACCESS_REMOTE_WRITE
                         : peer_may == PeerMay::kRead ? IBV_ACCESS_REMOTE_READ
                                                      : 0;
  if (const int error =
          ibv_modify_qp(pair_.get(), &init,
                        IBV_QP_STATE | IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_ACCESS_FLAGS)) {
    fail_verb("ibv_modify_qp to INIT", error);
  }
  post_receives(kReceiveDepth);  // before the peer can know our address: its first SEND finds one
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
  ready.ah_attr.port_num = port_.number;
  ready.ah_attr.grh.hop_limit = 64;
  ready.ah_attr.grh.sgid_index = port_.gid_index;
  std::memcpy(ready.ah_attr.grh.dgid.raw, peer.gid.data(), sizeof ready.ah_attr.grh.dgid.raw);
  if (const int error =
          ibv_modify_qp(pair_.get(), &ready,
                        IBV_QP_STATE | IBV_QP_AV | IBV_QP_PATH_MTU | IBV_QP_DEST_QPN |
                            IBV_QP_RQ_PSN | IBV_QP_MAX_DEST_RD_ATOMIC | IBV_QP_MIN_RNR_TIMER)) {
    fail_verb("ibv_modify_qp to RTR", error);
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
    fail_verb("ibv_modify_qp to RTS", error);
  }
}

void RdmaEndpoint::post_receives(std::uint32_t count) {
  for (std::uint32_t i = 0; i < count; ++i) {
    ibv_recv_wr receive{};  // markers carry no bytes
    ibv_recv_wr* bad = nullptr;
    if (const int error = ibv_post_recv(pair_.get(), &receive, &bad))
      fail_verb("ibv_post_recv", error);
  }
}

void RdmaEndpoint::post_send(ibv_send_wr& chain) {
  ibv_send_wr* bad = nullptr;
  if (const int error = ibv_post_send(pair_.get(), &chain, &bad)) fail_verb("ibv_post_send", error);
}

void RdmaEndpoint::post_marker() {
  ibv_send_wr request{};
  request.opcode = IBV_WR_SEND;
  request.send_flags = IBV_SEND_SIGNALED;
  request.wr_id = 1;
  post_send(request);
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
    if (const int error = ibv_req_notify_cq(queue, 0)) fail_verb("ibv_req_notify_cq", error);
  }
}

void RdmaEndpoint::drain_events() {
  pollfd poll{events_->fd, POLLIN, 0};
  while (::poll(&poll, 1, 0) == 1) {
    ibv_cq* queue = nullptr;
    void* unused = nullptr;
    if (ibv_get_cq_event(events_.get(), &queue, &unused) != 0) fail_verb("ibv_get_cq_event");
    ibv_ack_cq_events(queue, 1);
  }
}

}  // namespace godwit::migration
