#include "migration/rdma_channel.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>

namespace godwit::migration {

using memory::kPageSize;
using memory::PageRange;

namespace {

constexpr std::uint64_t kMaxRegion =
    (1ull << 30) / kPageSize;            // pages: rxe's cap, and enough for any NIC
constexpr std::uint64_t kMergeGap = 16;  // pages registered in vain to save a region
constexpr std::uint64_t kWindow =
    (32ull << 20) / kPageSize;      // pages waiting for their registration
constexpr std::size_t kChain = 64;  // work requests posted at once, the last signalled

constexpr int kGlanceMs = 20;          // between two looks at the wire while a marker is due
constexpr int kBeginAnewMs = 5000;     // a source whose RDMA has failed, too, says so
constexpr std::size_t kMostAhead = 4;  // Offer or Verify, Missing, State, Begin

/// RDMA's own errors are the channel's.
template <typename Do>
auto guarded(Do action) {
  try {
    return action();
  } catch (const RdmaError& error) {
    throw TransportLost(error.what());
  }
}

}  // namespace

RdmaChannel::RdmaChannel(Wire& wire, memory::GuestMemory& memory, Role role,
                         std::unique_ptr<RdmaEndpoint> endpoint)
    : wire_(wire), memory_(memory), role_(role), endpoint_(std::move(endpoint)) {}

void RdmaChannel::probe() {
  guarded([&] {
    post_marker();
    pump(0, true);
  });
}

const RdmaChannel::Extent* RdmaChannel::extent_of(std::uint64_t page) const {
  auto next = extents_.upper_bound(page);
  if (next == extents_.begin()) return nullptr;
  const Extent& extent = std::prev(next)->second;
  return page < extent.range.end() ? &extent : nullptr;
}

std::vector<PageRange> RdmaChannel::not_registered(std::span<const PageRange> ranges) const {
  std::vector<PageRange> missing;
  for (PageRange rest : ranges) {
    while (rest.count > 0) {
      if (const Extent* extent = extent_of(rest.first)) {
        const std::uint64_t covered = std::min(rest.count, extent->range.end() - rest.first);
        rest = {rest.first + covered, rest.count - covered};
        continue;
      }
      const auto next = extents_.upper_bound(rest.first);
      const std::uint64_t room = next == extents_.end() ? rest.count : next->first - rest.first;
      const PageRange piece{rest.first, std::min({rest.count, room, kMaxRegion})};
      // A small gap that no other extent lies in is cheaper registered than kept apart.
      if (!missing.empty() && piece.first - missing.back().end() <= kMergeGap &&
          piece.end() - missing.back().first <= kMaxRegion &&
          extents_.lower_bound(missing.back().end()) == extents_.lower_bound(piece.first)) {
        missing.back().count = piece.end() - missing.back().first;
      } else {
        missing.push_back(piece);
      }
      rest = {piece.end(), rest.count - piece.count};
    }
  }
  return missing;
}

void RdmaChannel::request_extents(std::span<const PageRange> ranges) {
  const std::vector<PageRange> missing = not_registered(ranges);
  for (std::span<const PageRange> rest = missing; !rest.empty();) {
    const auto some = rest.first(std::min<std::size_t>(rest.size(), kMaxRangesInFrame));
    wire_.send({.kind = MessageKind::kRegister}, std::as_bytes(some));
    rest = rest.subspan(some.size());
  }
  for (const PageRange& range : missing) {
    Extent extent{range, endpoint_->register_memory(memory_.page_bytes(range)), {}, false};
    requested_.push_back(&extents_.emplace(range.first, std::move(extent)).first->second);
  }
}

// Answers nothing but the frame where there are no memory regions to be had.
void RdmaChannel::register_for_peer(std::span<const std::byte> payload) {
  const auto ranges = decode_ranges(payload, memory_.pages(), kMaxRangesInFrame);
  std::vector<RemoteExtent> answer;
  for (const PageRange& range : ranges) {
    const auto next = extents_.lower_bound(range.first);
    if (range.count > kMaxRegion || extent_of(range.first) != nullptr ||
        (next != extents_.end() && next->first < range.end())) {
      throw ChannelError(
          "the peer asked for a memory region that is too large or overlaps another");
    }
    memory_.expect_writes(range);
    MemoryRegion region;
    try {
      region = endpoint_->register_memory(memory_.page_bytes(range));
    } catch (const RdmaError&) {
      return wire_.send({.kind = MessageKind::kRegistered});
    }
    Extent extent{range, std::move(region), {}, true};
    answer.push_back(
        {reinterpret_cast<std::uint64_t>(extent.region->addr), extent.region->rkey, 0});
    extents_.emplace(range.first, std::move(extent));
  }
  wire_.send({.kind = MessageKind::kRegistered}, std::as_bytes(std::span(answer)));
}

void RdmaChannel::take_registered() {
  const FrameHeader header = wire_.receive_header(-1);
  const auto payload = wire_.receive_payload(header);
  if (header.kind == MessageKind::kRefuse) {
    throw ChannelError("the destination refused: " + decode_reason(payload));
  }
  if (header.kind == MessageKind::kRegistered && payload.empty()) {
    throw TransportLost("the destination could not register memory");
  }
  const std::size_t count = payload.size() / sizeof(RemoteExtent);
  if (header.kind != MessageKind::kRegistered || payload.size() % sizeof(RemoteExtent) != 0 ||
      count > requested_.size()) {
    throw ChannelError(fmt::format("the peer sent {} out of turn", kind_name(header.kind)));
  }
  for (std::size_t i = 0; i < count; ++i) {
    std::memcpy(&requested_.front()->remote, payload.data() + i * sizeof(RemoteExtent),
                sizeof(RemoteExtent));
    requested_.front()->ready = true;
    requested_.pop_front();
  }
}

bool RdmaChannel::post_some() {
  std::array<ibv_send_wr, kChain> chain;
  std::array<ibv_sge, kChain> pieces;
  std::size_t used = 0;
  const std::uint64_t most = std::max<std::uint64_t>(endpoint_->max_message() / kPageSize, 1);
  while (!queue_.empty() && used < kChain && outstanding_ + used < RdmaEndpoint::kSendDepth) {
    PageRange& head = queue_.front();
    const Extent* extent = extent_of(head.first);
    if (extent == nullptr || !extent->ready) break;
    const PageRange piece{head.first,
                          std::min({head.count, extent->range.end() - head.first, most})};
    const auto bytes = memory_.page_bytes(piece);
    pieces[used] = {reinterpret_cast<std::uint64_t>(bytes.data()),
                    static_cast<std::uint32_t>(bytes.size()), extent->region->lkey};
    ibv_send_wr& request = chain[used];
    request = {};
    request.sg_list = &pieces[used];
    request.num_sge = 1;
    request.opcode = IBV_WR_RDMA_WRITE;
    request.wr.rdma.remote_addr =
        extent->remote.address + (piece.first - extent->range.first) * kPageSize;
    request.wr.rdma.rkey = extent->remote.rkey;
    if (used > 0) chain[used - 1].next = &request;
    ++used;
    written_ += bytes.size();
    unmarked_ = true;
    queued_pages_ -= piece.count;
    head = {piece.end(), head.count - piece.count};
    if (head.count == 0) queue_.pop_front();
  }
  if (used == 0) return false;
  chain[used - 1].send_flags = IBV_SEND_SIGNALED;
  chain[used - 1].wr_id = used;  // completes that many
  endpoint_->post_send(chain[0]);
  outstanding_ += used;
  return true;
}

// Runs the source's side until at most `pages_left` pages wait to be posted and, with `drain`,
// every posted one has completed. Waits for whichever of the two is in the way: an rkey or a
// completion.
void RdmaChannel::pump(std::uint64_t pages_left, bool drain) {
  for (;;) {
    wire_.heed_peer();
    while (!requested_.empty() && wire_.readable()) take_registered();
    outstanding_ -= endpoint_->reap_sends();
    if (post_some()) continue;
    if (queued_pages_ <= pages_left && (!drain || outstanding_ == 0)) return;
    const bool full = outstanding_ >= RdmaEndpoint::kSendDepth;
    if (queued_pages_ > pages_left && !full) {
      take_registered();  // the head of the queue waits for its rkey
      continue;
    }
    endpoint_->arm();
    if (const std::uint64_t done = endpoint_->reap_sends(); done > 0) {
      outstanding_ -= done;
      continue;
    }
    wire_.wait_for(endpoint_->event_fd(), -1);
    endpoint_->drain_events();
  }
}

void RdmaChannel::write(std::span<const PageRange> ranges) {
  guarded([&] {
    request_extents(ranges);
    for (const PageRange& range : ranges) {
      queue_.push_back(range);
      queued_pages_ += range.count;
    }
    pump(kWindow, false);
  });
}

void RdmaChannel::flush() {
  guarded([&] { pump(0, true); });
}

void RdmaChannel::post_marker() {
  while (outstanding_ >= RdmaEndpoint::kSendDepth) pump(0, true);
  ibv_send_wr request{};
  request.opcode = IBV_WR_SEND;
  request.send_flags = IBV_SEND_SIGNALED;
  request.wr_id = 1;
  endpoint_->post_send(request);
  ++outstanding_;
  ++markers_;
  unmarked_ = false;
}

void RdmaChannel::send(MessageKind kind, std::span<const std::byte> payload) {
  if (role_ == Role::kDestination)
    return wire_.send({.kind = kind}, payload);  // it writes no pages
  guarded([&] {
    pump(0, false);
    if (unmarked_) post_marker();
  });
  wire_.send({.kind = kind, .marker = markers_}, payload);
}

// False when the source has begun anew by another transport instead.
bool RdmaChannel::await_markers(std::uint32_t count) {
  const auto reap = [&] {
    markers_ += static_cast<std::uint32_t>(endpoint_->reap_receives());
    return markers_ >= count;
  };
  if (markers_ >= count) return true;
  if (sealed_) throw ChannelError("the peer wrote pages after the state");
  try {
    for (;;) {
      if (reap()) return true;
      endpoint_->arm();
      if (reap()) return true;
      if (wire_.wait_for(endpoint_->event_fd(), kGlanceMs)) {
        endpoint_->drain_events();
      } else if (wire_.frame_waiting() && begun_anew()) {
        return false;
      }
    }
  } catch (const RdmaError& error) {
    while (wire_.wait_for(wire_.fd(), kBeginAnewMs)) {
      if (begun_anew()) return false;
    }
    throw ChannelError(error.what());
  }
}

// Takes a frame ahead of its turn. Whether it is a Begin, which takes the place of all before it.
bool RdmaChannel::begun_anew() {
  if (ahead_.size() >= kMostAhead) throw ChannelError("the peer does not wait for its own pages");
  ahead_.push_back(next_frame(-1));
  if (ahead_.back().header.kind != MessageKind::kBegin) return false;
  ahead_.erase(ahead_.begin(), std::prev(ahead_.end()));
  return true;
}

std::vector<OfferedExtent> RdmaChannel::offer(std::span<const PageRange> ranges) {
  return guarded([&] {
    pump(0, true);
    for (const PageRange& range : not_registered(ranges)) {
      extents_.emplace(
          range.first,
          Extent{range, endpoint_->register_memory(memory_.page_bytes(range)), {}, false});
    }
    std::vector<OfferedExtent> offered;
    for (const auto& [first, extent] : extents_) {
      offered.push_back(
          {extent.range,
           {reinterpret_cast<std::uint64_t>(extent.region->addr), extent.region->rkey, 0}});
    }
    return offered;
  });
}

std::unique_ptr<RdmaEndpoint> RdmaChannel::take_endpoint() {
  extents_.clear();
  sealed_ = true;
  return std::move(endpoint_);
}

void RdmaChannel::seal() {
  endpoint_->disconnect();
  sealed_ = true;
}

RdmaChannel::Frame RdmaChannel::next_frame(int timeout_ms) {
  const FrameHeader header = wire_.receive_header(timeout_ms);
  if (header.kind == MessageKind::kPages || header.kind == MessageKind::kZero) {
    throw ChannelError("the peer sent pages over TCP in an RDMA move");
  }
  return {header, wire_.receive_payload(header)};
}

Message RdmaChannel::receive(int timeout_ms) {
  // What was posted before is to fail here rather than by the peer's silence.
  if (role_ == Role::kSource && endpoint_) guarded([&] { pump(0, true); });
  for (;;) {
    if (ahead_.empty()) ahead_.push_back(next_frame(timeout_ms));
    Frame frame = std::move(ahead_.front());
    ahead_.pop_front();
    if (frame.header.kind == MessageKind::kRegister && role_ == Role::kDestination) {
      register_for_peer(frame.payload);
    } else if (frame.header.marker == 0 || await_markers(frame.header.marker)) {
      return {frame.header.kind, std::move(frame.payload)};
    }
  }
}

}  // namespace godwit::migration
