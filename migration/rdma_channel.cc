#include "migration/rdma_channel.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "migration/page_frames.h"

namespace godwit::migration {

using memory::kPageSize;
using memory::PageRange;

namespace {

constexpr std::uint64_t kWindow =
    (32ull << 20) / kPageSize;      // pages waiting for their registration
constexpr std::size_t kChain = 64;  // work requests posted at once, the last signalled
constexpr std::uint64_t kMostInRequest = (64ull << 20) / kPageSize;  // pages
constexpr std::size_t kMostRequested = 1024;  // regions: their answers fit into socket buffers

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

RdmaDevices devices_of(const RdmaChannel::Endpoints& endpoints) {
  RdmaDevices devices;
  for (const auto& endpoint : endpoints) {
    const auto& device = endpoint->port().device;
    if (std::find(devices.begin(), devices.end(), device) == devices.end())
      devices.push_back(device);
  }
  return devices;
}

PeerMay peer_may(Role role, const RdmaChannel::Endpoints& endpoints) {
  return role == Role::kDestination ? PeerMay::kWrite : endpoints.front()->peer_may();
}

}  // namespace

RdmaChannel::RdmaChannel(Wire& wire, memory::GuestMemory& memory, Role role, Endpoints endpoints,
                         const PinnedMemory* pinned)
    : wire_(wire),
      memory_(memory),
      role_(role),
      pinned_(pinned != nullptr && pinned->has(devices_of(endpoints)) ? pinned : nullptr),
      devices_(devices_of(endpoints)),
      registrar_(memory, devices_, peer_may(role, endpoints), role == Role::kDestination) {
  for (auto& endpoint : endpoints) {
    const auto device = std::find(devices_.begin(), devices_.end(), endpoint->port().device);
    news_.add(endpoint->event_fd());
    Lane& lane = lanes_.emplace_back();
    lane.endpoint = std::move(endpoint);
    lane.device = static_cast<std::size_t>(device - devices_.begin());
  }
  number_ports();
  news_.add(registrar_.event_fd());
  news_or_answers_.add(news_.fd());
  news_or_answers_.add(wire_.fd());
}

void RdmaChannel::number_ports() {
  ports_ = 0;
  for (std::size_t i = 0; i < lanes_.size(); ++i) {
    const auto number = [&](std::size_t lane) { return lanes_[lane].endpoint->address().port; };
    if (i == 0 || number(i) != number(i - 1)) ++ports_;
    lanes_[i].port = ports_ - 1;
  }
}

void RdmaChannel::keep_ports(std::span<const unsigned> ports) {
  std::erase_if(lanes_, [&](const Lane& lane) {
    return std::ranges::find(ports, lane.endpoint->address().port) == ports.end();
  });
  number_ports();
  if (ports_ != ports.size())
    throw ChannelError("the peer began by RDMA ports that were not agreed");
}

void RdmaChannel::request(std::span<const PageRange> regions) {
  for (const PageRange& region : regions) {
    extents_.add(region);
    to_request_.push_back(region);
  }
  request_more();
}

// Both ends register the same at the same time.
void RdmaChannel::request_more() {
  while (!to_request_.empty() && requested_.size() < kMostRequested) {
    std::vector<PageRange> some;
    std::uint64_t pages = 0;
    while (!to_request_.empty() && some.size() < kMaxRangesInFrame &&
           (some.empty() || pages + to_request_.front().count <= most_in_request_)) {
      some.push_back(to_request_.front());
      pages += some.back().count;
      to_request_.pop_front();
      requested_.push_back(extents_.find(some.back().first));
      if (pinned_ == nullptr) registrar_.add(some.back());
    }
    wire_.send({.kind = MessageKind::kRegister}, std::as_bytes(std::span(some)));
    most_in_request_ = std::min(most_in_request_ * 2, kMostInRequest);
  }
}

void RdmaChannel::prepare(std::span<const PageRange> ranges) {
  request(extents_.uncovered(plan_regions(ranges, memory_.pages())));
}

void RdmaChannel::register_all_of_ram() {
  std::vector<PageRange> all;
  for (std::uint64_t at = 0; at < memory_.pages(); at += kMaxRegion) {
    all.push_back({at, std::min(kMaxRegion, memory_.pages() - at)});
  }
  have_registered(all);
}

void RdmaChannel::have_registered(std::span<const PageRange> ranges) {
  for (auto& done : register_all(registrar_, ranges, wire_)) {
    extents_.add(done.range, std::move(done.regions));
  }
}

// Answers nothing but the frame where there are no memory regions to be had.
void RdmaChannel::register_for_peer(std::span<const std::byte> payload) {
  if (sealed_) throw ChannelError("the peer asked for memory regions after the state");
  const auto ranges = decode_ranges(payload, memory_.pages(), kMaxRangesInFrame);
  std::vector<PageRange> fresh;
  for (const PageRange& range : ranges) {
    const RdmaExtent* const extent = extents_.find(range.first);
    if (extent != nullptr && range.end() <= extent->range.end()) continue;  // all of RAM is
    if (range.count > kMaxRegion || extents_.overlaps(range)) {
      throw ChannelError(
          "the peer asked for a memory region that is too large or overlaps another");
    }
    fresh.push_back(range);
  }
  try {
    have_registered(fresh);
  } catch (const RdmaError&) {
    return wire_.send({.kind = MessageKind::kRegistered});
  }
  std::vector<RemoteExtent> answer;
  for (const PageRange& range : ranges) {
    const RdmaExtent& extent = *extents_.find(range.first);
    for (std::size_t i = 0; i < lanes_.size(); ++i) {
      if (i > 0 && lanes_[i].port == lanes_[i - 1].port) continue;
      const ibv_mr& region = *extent.regions[lanes_[i].device];
      answer.push_back({reinterpret_cast<std::uint64_t>(region.addr) +
                            (range.first - extent.range.first) * kPageSize,
                        region.rkey, 0});
    }
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
  const std::size_t size = sizeof(RemoteExtent) * ports_;
  const std::size_t count = payload.size() / size;
  if (header.kind != MessageKind::kRegistered || payload.size() % size != 0 ||
      count > requested_.size()) {
    throw ChannelError(fmt::format("the peer sent {} out of turn", kind_name(header.kind)));
  }
  for (std::size_t i = 0; i < count; ++i) {
    std::vector<RemoteExtent>& remote = requested_.front()->remote;
    remote.resize(ports_);
    std::memcpy(remote.data(), payload.data() + i * size, size);
    requested_.pop_front();
  }
}

/// Whatever has been registered meanwhile, at either end.
void RdmaChannel::take_answers() {
  while (!requested_.empty() && wire_.readable()) take_registered();
  for (auto& done : registrar_.take()) {
    extents_.find(done.range.first)->regions = std::move(done.regions);
  }
}

bool RdmaChannel::usable(const RdmaExtent& extent) const {
  return !extent.remote.empty() && (pinned_ != nullptr || !extent.regions.empty());
}

std::uint32_t RdmaChannel::local_key(const RdmaExtent& extent, std::size_t device) const {
  return pinned_ != nullptr ? pinned_->local_key(*devices_[device], extent.range.first)
                            : extent.regions[device]->lkey;
}

bool RdmaChannel::post_some(Lane& lane) {
  std::array<ibv_send_wr, kChain> chain;
  std::array<ibv_sge, kChain> pieces;
  std::size_t used = 0;
  const std::uint64_t most = std::max<std::uint64_t>(lane.endpoint->max_message() / kPageSize, 1);
  while (!lane.queue.empty() && used < kChain &&
         lane.outstanding + used < RdmaEndpoint::kSendDepth) {
    PageRange& head = lane.queue.front();
    const RdmaExtent* extent = extents_.find(head.first);
    if (extent == nullptr || !usable(*extent)) break;
    const PageRange piece{head.first,
                          std::min({head.count, extent->range.end() - head.first, most})};
    const auto bytes = memory_.page_bytes(piece);
    pieces[used] = {reinterpret_cast<std::uint64_t>(bytes.data()),
                    static_cast<std::uint32_t>(bytes.size()), local_key(*extent, lane.device)};
    ibv_send_wr& request = chain[used];
    request = {};
    request.sg_list = &pieces[used];
    request.num_sge = 1;
    request.opcode = IBV_WR_RDMA_WRITE;
    const RemoteExtent& remote = extent->remote[lane.port];
    request.wr.rdma.remote_addr = remote.address + (piece.first - extent->range.first) * kPageSize;
    request.wr.rdma.rkey = remote.rkey;
    if (used > 0) chain[used - 1].next = &request;
    ++used;
    written_ += bytes.size();
    unmarked_ = true;
    queued_pages_ -= piece.count;
    head = {piece.end(), head.count - piece.count};
    if (head.count == 0) lane.queue.pop_front();
  }
  if (used == 0) return false;
  chain[used - 1].send_flags = IBV_SEND_SIGNALED;
  chain[used - 1].wr_id = used;  // completes that many
  lane.endpoint->post_send(chain[0]);
  lane.outstanding += used;
  return true;
}

/// Takes what has come and posts what can be; false where nothing was posted.
bool RdmaChannel::step() {
  wire_.heed_peer();
  take_answers();
  request_more();
  bool posted = false;
  for (Lane& lane : lanes_) {
    lane.outstanding -= lane.endpoint->reap_sends();
    posted |= post_some(lane);
  }
  return posted;
}

bool RdmaChannel::drained() const {
  return std::all_of(lanes_.begin(), lanes_.end(),
                     [](const Lane& lane) { return lane.outstanding == 0; });
}

void RdmaChannel::arm() {
  for (const Lane& lane : lanes_) lane.endpoint->arm();
}

/// Until there is a completion, a registration here or an answer of the peer's.
void RdmaChannel::wait_for_news() {
  arm();
  for (Lane& lane : lanes_) {
    const std::uint64_t done = lane.endpoint->reap_sends();
    lane.outstanding -= done;
    if (done > 0) return;
  }
  wire_.wait_for(requested_.empty() ? news_.fd() : news_or_answers_.fd(), -1);
  for (const Lane& lane : lanes_) lane.endpoint->drain_events();
}

// Runs the source's side until at most `pages_left` pages wait to be posted and, with `drain`,
// every posted one has completed.
void RdmaChannel::pump(std::uint64_t pages_left, bool drain) {
  for (;;) {
    if (step()) continue;
    if (queued_pages_ <= pages_left && (!drain || drained())) return;
    wait_for_news();
  }
}

void RdmaChannel::write(std::span<const PageRange> ranges) {
  guarded([&] {
    if (const auto fresh = extents_.uncovered(ranges); !fresh.empty()) prepare(fresh);
    if (lanes_.size() == 1) {
      lanes_[0].queue.insert(lanes_[0].queue.end(), ranges.begin(), ranges.end());
    } else {
      const auto parts = spread(ranges, lanes_.size());
      for (std::size_t i = 0; i < parts.size(); ++i) {
        lanes_[i].queue.insert(lanes_[i].queue.end(), parts[i].begin(), parts[i].end());
      }
    }
    queued_pages_ += memory::pages_in(ranges);
    pump(kWindow, false);
  });
}

void RdmaChannel::flush() {
  guarded([&] { pump(0, true); });
}

void RdmaChannel::post_markers() {
  for (Lane& lane : lanes_) {
    if (lane.full()) pump(0, true);
    lane.endpoint->post_marker();
    ++lane.outstanding;
  }
  ++markers_;
  unmarked_ = false;
}

void RdmaChannel::send(MessageKind kind, std::span<const std::byte> payload) {
  if (role_ == Role::kDestination)
    return wire_.send({.kind = kind}, payload);  // it writes no pages
  guarded([&] {
    pump(0, false);
    if (unmarked_) post_markers();
  });
  wire_.send({.kind = kind, .marker = markers_}, payload);
}

// False when the source has begun anew by another transport instead.
bool RdmaChannel::await_markers(std::uint32_t count) {
  const auto reap = [&] {
    bool all = true;
    for (Lane& lane : lanes_) {
      if (!sealed_) lane.markers += static_cast<std::uint32_t>(lane.endpoint->reap_receives());
      all &= lane.markers >= count;
    }
    return all;
  };
  if (reap()) return true;
  if (sealed_) throw ChannelError("the peer wrote pages after the state");
  try {
    for (;;) {
      arm();
      if (reap()) return true;
      if (wire_.wait_for(news_.fd(), kGlanceMs)) {
        for (const Lane& lane : lanes_) lane.endpoint->drain_events();
      } else if (wire_.frame_waiting() && begun_anew()) {
        return false;
      }
      if (reap()) return true;
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
    // What is registered ahead of its turn is ready in a moment.
    while (std::any_of(extents_.begin(), extents_.end(),
                       [](const auto& one) { return one.second.regions.empty(); }) &&
           pinned_ == nullptr) {
      wait_for_news();
      take_answers();
    }
    for (const PageRange& range : extents_.uncovered(ranges)) {
      extents_.add(range);
    }
    std::vector<OfferedExtent> offered;
    for (auto& [first, extent] : extents_) {
      if (extent.regions.empty()) {
        extent.regions.push_back(
            register_memory(*devices_[0], memory_.page_bytes(extent.range), PeerMay::kRead));
      }
      const ibv_mr& region = *extent.regions[0];
      offered.push_back(
          {extent.range, {reinterpret_cast<std::uint64_t>(region.addr), region.rkey, 0}});
    }
    return offered;
  });
}

std::unique_ptr<RdmaEndpoint> RdmaChannel::take_endpoint() {
  extents_.clear();
  sealed_ = true;
  auto endpoint = std::move(lanes_[0].endpoint);
  lanes_.clear();
  return endpoint;
}

void RdmaChannel::seal() {
  for (const Lane& lane : lanes_) lane.endpoint->disconnect();
  sealed_ = true;
}

void RdmaChannel::release() { extents_.clear(); }

RdmaChannel::Frame RdmaChannel::next_frame(int timeout_ms) {
  const FrameHeader header = wire_.receive_header(timeout_ms);
  if (carries_pages(header.kind)) {
    throw ChannelError("the peer sent pages over TCP in an RDMA move");
  }
  return {header, wire_.receive_payload(header)};
}

Message RdmaChannel::receive(int timeout_ms) {
  // What was posted before is to fail here rather than by the peer's silence.
  if (role_ == Role::kSource) guarded([&] { pump(0, true); });
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
