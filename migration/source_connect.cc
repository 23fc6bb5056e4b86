// Source's way to the destination: at first, and back after a lost link in post-copy.
#include <algorithm>
#include <utility>
#include <vector>

#include "migration/rdma_channel.h"
#include "migration/rdma_connect.h"
#include "migration/shared_channel.h"
#include "migration/source.h"
#include "migration/stream_door.h"
#include "migration/tcp_channel.h"
#include "vmm/sys/affinity.h"

namespace godwit::migration {

using std::chrono::milliseconds;

namespace {
constexpr milliseconds kConnectTimeout{5000};
constexpr milliseconds kMeetTimeout{5000};
constexpr int kSetUpTimeoutMs = 20000;  // the destination builds a machine
constexpr milliseconds kComebackTimeout{10'000};
constexpr unsigned kMostByDefault = 4;  // streams
}  // namespace

void Source::connect() {
  if (options_.tls) {
    security_ = {std::make_shared<const tls::Context>(*options_.tls), options_.tls_name};
  }
  auto wire = std::make_unique<Wire>(
      shared_ram_ ? Wire(std::move(successor_))
                  : Wire::connect(options_.to, kConnectTimeout, given_up_.fd()));
  {
    const std::lock_guard lock(mutex_);
    wire_ = std::move(wire);
  }
  stop_if_cancelled();
  if (options_.timeout_ms > 0) {
    wire_->set_deadline(
        began_ + std::chrono::microseconds(static_cast<std::int64_t>(options_.timeout_ms * 1000)));
  }
  set_phase("preparing");
  wire_->meet(security_, kMeetTimeout);
  report_.tls = wire_->tls();
  choose_transport(*wire_);
  report_.transport = channel_->name();
  wire_->send_json(
      MessageKind::kBegin,
      encode(Begin{report_.transport, rdma_ == nullptr ? report_.streams : 1, report_.rdma_ports}));
  wire_before_ = -channel_->bytes_sent();
  report_.setup_ms = transport_began_ms_ = elapsed_ms();
  const std::lock_guard lock(mutex_);
  progress_.transport = report_.transport;
}

// Post-copy has no rounds, and what it sends goes by one.
unsigned Source::streams_to_ask_for() const {
  if (shared_ram_ || options_.mode == Mode::kPostCopy) return 1;
  if (options_.streams > 0) return std::min(options_.streams, kMaxStreams);
  return std::clamp(sys::usable_cpus(), 1u, kMostByDefault);
}

/// On each of so many connections.
Compression Source::compression(unsigned connections) const {
  return {options_.compress, static_cast<double>(options_.max_bandwidth) / 8 / connections};
}

// Says hello, and takes RDMA when both ends have it and it answers; else TCP, saying why.
void Source::choose_transport(Wire& wire) {
  memory::GuestMemory& memory = machine_.memory();
  Hello hello;
  hello.machine = machine_.config();
  hello.requirements = machine_.requirements();
  hello.postcopy = options_.mode != Mode::kPreCopy;
  hello.max_bandwidth = options_.max_bandwidth;
  hello.streams = streams_to_ask_for();
  hello.dry_run = dry_;
  hello.data_bytes = memory.data_bytes();
  RdmaEndpoints endpoints;
  std::string why_not;
  if (shared_ram_) {
    why_not = "the same host";
  } else if (options_.transport == Transport::kTcp) {
    why_not = "asked for";
  } else if (options_.transport == Transport::kAuto && security_.context) {
    why_not = "it does not encrypt; --transport rdma goes by it all the same";
  } else {
    try {
      if (options_.pinned == nullptr) require_memlock(hello.data_bytes);
      endpoints = offer_endpoints(
          wire.fd(),
          {.ports = options_.rdma_ports,
           .queue_pairs = options_.streams,
           .peer_may = options_.mode == Mode::kPreCopy ? PeerMay::kNothing : PeerMay::kRead,
           .open = options_.pinned == nullptr ? RdmaDevices() : options_.pinned->devices()});
      hello.rdma = addresses_of(endpoints);
    } catch (const RdmaError& error) {
      why_not = std::string("here ") + error.what();
    }
  }
  if (!shared_ram_ && options_.transport == Transport::kRdma && endpoints.empty())
    throw ChannelError("no RDMA: " + why_not);
  wire.send_json(MessageKind::kHello, encode(hello));
  const Accept accept = decode_accept(expect(MessageKind::kAccept, kSetUpTimeoutMs).payload);
  token_ = accept.token;
  disks_tell_ = accept.disks_tell;
  if (shared_ram_) {
    channel_ = std::make_unique<SharedChannel>(wire);
    report_.transport_reason = "both ends have the same memory";
    return;
  }
  if (!endpoints.empty() && begin_rdma(std::move(endpoints), accept, why_not)) return;
  if (options_.transport == Transport::kRdma) throw ChannelError("no RDMA: " + why_not);
  report_.transport_reason =
      options_.transport == Transport::kTcp ? why_not : "no RDMA: " + why_not;
  std::vector<Wire> streams =
      join_streams(options_.to, accept.join, std::min(accept.streams, hello.streams) - 1, security_,
                   given_up_.fd());
  stop_if_cancelled();
  report_.streams = static_cast<unsigned>(streams.size() + 1);
  channel_ = std::make_unique<TcpChannel>(wire, memory, Role::kSource, std::move(streams),
                                          compression(report_.streams));
}

// False where the queue pairs do not reach each other.
bool Source::begin_rdma(RdmaEndpoints endpoints, const Accept& accept, std::string& why_not) {
  if (accept.rdma.empty()) {
    why_not = "at the destination " + accept.rdma_reason;
    return false;
  }
  try {
    endpoints = connect_endpoints(*wire_, std::move(endpoints), accept.rdma);
  } catch (const std::exception& error) {
    stop_if_cancelled();
    why_not = error.what();
    return false;
  }
  report_.rdma_ports = ports_of(endpoints);
  report_.streams = static_cast<unsigned>(endpoints.size());
  auto channel = std::make_unique<RdmaChannel>(*wire_, machine_.memory(), Role::kSource,
                                               std::move(endpoints), options_.pinned);
  rdma_ = channel.get();
  channel_ = std::move(channel);
  report_.transport_reason = "both ends reach each other by RDMA";
  return true;
}

// RDMA has failed before Commit: the rounds go on by TCP, if the connection still stands. What the
// unfinished round wrote is written again. The guest runs on here once the destination has said
// that it has not taken it, and that nothing can be written into its memory any more.
void Source::fall_back(const std::string& why) {
  if (options_.transport == Transport::kRdma) throw ChannelError(why);
  rdma_ = nullptr;
  wire_before_ = wire_bytes();
  channel_.reset();
  wire_->send_json(MessageKind::kBegin, encode(Begin{"tcp"}));
  wire_->send({.kind = MessageKind::kSync});
  Message answer;
  do {
    answer = receive(kSetUpTimeoutMs);
  } while (answer.kind == MessageKind::kRegistered);  // asked for before
  if (answer.kind != MessageKind::kSynced) {
    throw ChannelError(std::string("the peer sent ") + kind_name(answer.kind) + ", Synced was due");
  }
  channel_ = std::make_unique<TcpChannel>(*wire_, machine_.memory(), Role::kSource,
                                          std::vector<Wire>(), compression(1));
  wire_before_ -= channel_->bytes_sent();
  if (paused_) {
    machine_.lock_disks();
    disks_unlocked_ = false;
    machine_.resume();
    paused_ = false;
    wire_->set_patience(Wire::kPatience);
  }
  report_.transport = channel_->name();
  report_.streams = 1;
  report_.rdma_ports.clear();
  report_.transport_reason = "RDMA failed during the move: " + why;
  report_.postcopy = {};
  sent_before_ = report_.ram_bytes;
  sent_ms_ = held_ms_ = 0;
  rounds_before_ = report_.rounds.size();
  transport_began_ms_ = elapsed_ms();
  const std::lock_guard lock(mutex_);
  progress_.phase = "rounds";
  progress_.transport = report_.transport;
}

// A destination that knows the token has the guest.
void Source::reconnect() {
  set_phase("reconnecting");
  call_back(kConnectTimeout, kComebackTimeout);
  const FrameHeader header = wire_->receive_header(-1);
  const auto payload = wire_->receive_payload(header);
  if (header.kind == MessageKind::kRefuse) {
    throw ChannelError("the destination refused: " + decode_reason(payload));
  }
  if (header.kind != MessageKind::kAccept) {
    throw ChannelError(std::string("the peer sent ") + kind_name(header.kind) + ", Accept was due");
  }
  take_up_rest(payload);
}

/// After the destination's Accept: what it lacks.
void Source::take_up_rest(std::span<const std::byte> accept) {
  decode_accept(accept);
  const FrameHeader header = wire_->receive_header(-1);
  const auto payload = wire_->receive_payload(header);
  if (header.kind != MessageKind::kMissing) {
    throw ChannelError(std::string("the peer sent ") + kind_name(header.kind) +
                       ", Missing was due");
  }
  server_->set_missing(decode_missing(payload, machine_.memory().pages()));
  server_->set_pushing(true);
  runs_there_ = true;
  wire_->set_deadline(std::nullopt);
}

}  // namespace godwit::migration
