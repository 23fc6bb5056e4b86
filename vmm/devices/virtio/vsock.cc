#include "vmm/devices/virtio/vsock.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "vmm/sys/error.h"

namespace godwit::devices {
namespace {

constexpr std::array<std::uint16_t, 3> kQueueSizes = {
    VirtioVsock::kQueueSize, VirtioVsock::kQueueSize, VirtioVsock::kQueueSize};
constexpr unsigned kBatch = 64;               // packets of one direction before the other
constexpr std::uint32_t kTransportReset = 0;  // 5.10.6.7
constexpr std::uint16_t kStream = 1;

/// Copies `bytes` to the start of the chain's buffers; false when they are too small.
bool scatter(const Chain& chain, std::span<const std::byte> bytes) {
  for (const auto& buffer : chain.writable) {
    const auto to = buffer.bytes();
    const std::size_t size = std::min(to.size(), bytes.size());
    std::memcpy(to.data(), bytes.data(), size);
    bytes = bytes.subspan(size);
  }
  return bytes.empty();
}

}  // namespace

VirtioVsock::VirtioVsock(std::uint32_t cid, std::string path)
    : cid_(cid),
      listener_(std::move(path)),
      worker_(
          "virtio-vsock", [this] { serve(); }, [this] { break_device(); }) {}

std::span<const std::uint16_t> VirtioVsock::queue_sizes() const { return kQueueSizes; }

void VirtioVsock::start(VirtioHost& host, std::uint64_t /*features*/,
                        std::span<const VirtioQueuePort> queues) {
  worker_.stop();
  if (queues.size() < kQueues) return;
  for (unsigned i = 0; i < kQueues; ++i) {
    if (!queues[i].queue->enabled()) return;
    ports_[i] = queues[i];
  }
  host_ = &host;
  broken_ = false;
  no_buffers_ = false;
  worker_.start();
}

void VirtioVsock::restore(vmm::StateReader& reader) {
  if (reader.get<std::uint64_t>() != cid_) reader.fail("its CID is another one here");
  reset();
  reset_due_ = true;
}

void VirtioVsock::reset() {
  connections_.clear();
  resets_.clear();
  reset_due_ = false;
}

// -- the I/O thread

void VirtioVsock::serve() {
  while (!worker_.stopping()) {
    if (!broken_ && reset_due_) announce_reset();
    if (!broken_) transmit();
    const bool held_up = resets_.size() >= kMaxResets;
    if (!broken_) receive();
    // The doorbell of what waits in the ring has rung already.
    if (held_up && resets_.size() < kMaxResets) worker_.wake();
    wait();
  }
}

void VirtioVsock::wait() {
  std::vector<pollfd> polls;
  polls.push_back({worker_.wake_up().fd(), POLLIN, 0});
  const bool room = connections_.size() < kMaxConnections;
  polls.push_back({!broken_ && room ? listener_.fd() : -1, POLLIN, 0});
  for (const VirtioQueuePort& port : ports_) {
    polls.push_back({broken_ ? -1 : port.doorbell->fd(), POLLIN, 0});
  }
  std::vector<Key> keys;
  for (const auto& [key, connection] : connections_) {
    const short events = broken_ ? short{0} : connection.events(!no_buffers_);
    if (events == 0) continue;  // not even POLLHUP, which would never let us sleep
    polls.push_back({connection.fd(), events, 0});
    keys.push_back(key);
  }
  if (::poll(polls.data(), polls.size(), -1) < 0 && errno != EINTR) sys::throw_errno("poll");
  worker_.wake_up().drain();
  for (const VirtioQueuePort& port : ports_) port.doorbell->drain();
  if (worker_.stopping()) return;
  for (std::size_t i = 0; i < keys.size(); ++i) {
    const short events = polls[2 + kQueues + i].revents;
    if (events != 0) look_at(keys[i], events);
  }
  if (polls[1].revents != 0) accept_programs();
}

void VirtioVsock::accept_programs() {
  while (connections_.size() < kMaxConnections) {
    sys::UniqueFd socket = listener_.accept();
    if (!socket) return;
    const std::uint32_t port = free_port();
    connections_.try_emplace({port, 0}, std::move(socket), port);
  }
}

// The program has something to say, or takes more.
void VirtioVsock::look_at(const Key& key, short events) {
  const auto at = connections_.find(key);
  VsockConnection& connection = at->second;
  if (connection.state() == VsockConnection::State::kGreeting) {
    if (!connection.greet()) return drop(at, false);
    if (connection.state() == VsockConnection::State::kRequested) {
      auto node = connections_.extract(at);
      node.key().second = connection.guest_port();
      connections_.insert(std::move(node));
    }
    return;
  }
  if ((events & (POLLOUT | POLLERR | POLLHUP)) != 0 && !connection.flush()) return drop(at, true);
  if (connection.finished()) drop(at, true);
}

// -- from the guest

void VirtioVsock::transmit() {
  Virtqueue& queue = *ports_[kTransmit].queue;
  do {
    // While the guest takes no resets, it has no right to cause more.
    while (resets_.size() < kMaxResets && !worker_.stopping()) {
      const auto result = queue.pop(chain_);
      if (result == Virtqueue::Pop::kEmpty) break;
      if (result == Virtqueue::Pop::kBroken || !take_packet() || !queue.push(chain_.head, 0)) {
        return break_device();
      }
    }
    notify(kTransmit);
  } while (resets_.size() < kMaxResets && !worker_.stopping() && queue.arm_doorbell());
  if (queue.broken()) break_device();
}

// False when it is none.
bool VirtioVsock::take_packet() {
  if (!chain_.writable.empty()) return false;
  data_.clear();
  std::size_t size = 0;
  for (const auto& buffer : chain_.readable) size += buffer.size();
  if (size < sizeof(VsockHeader) || size > sizeof(VsockHeader) + VsockConnection::kBuffer) {
    return false;
  }
  for (const auto& buffer : chain_.readable)
    data_.insert(data_.end(), buffer.begin(), buffer.end());
  VsockHeader header;
  std::memcpy(&header, data_.data(), sizeof header);
  data_.erase(data_.begin(), data_.begin() + sizeof header);
  if (header.length > data_.size()) return false;
  data_.resize(header.length);
  // 5.10.6.4.2: to somebody else, or in somebody else's name: dropped.
  if (header.destination_cid == kVsockHost && header.source_cid == cid_) handle(header);
  return true;
}

void VirtioVsock::handle(const VsockHeader& header) {
  const Key key{header.destination_port, header.source_port};
  const auto at = connections_.find(key);
  if (header.type == kStream && at != connections_.end() &&
      at->second.state() != VsockConnection::State::kGreeting) {
    return handle_open(at, header);
  }
  if (header.type == kStream && header.operation == kVsockRequest) return open(header);
  if (header.operation != kVsockReset) queue_reset(key.first, key.second);
}

void VirtioVsock::open(const VsockHeader& header) {
  const Key key{header.destination_port, header.source_port};
  sys::UniqueFd socket;
  if (connections_.size() < kMaxConnections && !connections_.contains(key)) {
    socket = listener_.connect(key.first);
  }
  if (!socket) return queue_reset(key.first, key.second);
  const auto [at, fresh] = connections_.try_emplace(key, std::move(socket), key.first, key.second);
  at->second.set_credit(header);
}

void VirtioVsock::handle_open(Connections::iterator at, const VsockHeader& header) {
  VsockConnection& connection = at->second;
  const bool requested = connection.state() == VsockConnection::State::kRequested;
  connection.set_credit(header);
  switch (header.operation) {
    case kVsockResponse:
      if (!requested || !connection.opened()) drop(at, true);
      return;
    case kVsockReset:
      return drop(at, false);
    case kVsockShutdown:
      connection.guest_shut(header.flags);
      break;
    case kVsockData:
      if (!connection.take(data_)) return drop(at, true);
      break;
    case kVsockCreditUpdate:
      return;
    case kVsockCreditRequest:
      return connection.want_credit();
    default:
      return drop(at, true);
  }
  if (!connection.flush() || connection.finished()) drop(at, true);
}

// -- to the guest

void VirtioVsock::receive() {
  no_buffers_ = false;
  for (unsigned round = 0; round < kBatch && !worker_.stopping(); ++round) {
    if (!give_packets()) break;
    if (round + 1 == kBatch) worker_.wake();  // the guest has its turn, then we go on
  }
  notify(kReceive);
}

// One packet of each connection that has one; false when there was none, or no buffer for it.
bool VirtioVsock::give_packets() {
  bool given = false;
  while (!resets_.empty()) {
    if (!pop_buffer()) return false;
    const auto [host_port, guest_port] = resets_.front();
    resets_.pop_front();
    if (!give({.source_cid = kVsockHost,
               .destination_cid = cid_,
               .source_port = host_port,
               .destination_port = guest_port,
               .operation = kVsockReset},
              0)) {
      return false;
    }
    given = true;
  }
  auto at = connections_.lower_bound(next_);
  for (std::size_t left = connections_.size(); left > 0; --left, ++at) {
    if (at == connections_.end()) at = connections_.begin();
    VsockConnection& connection = at->second;
    next_ = at->first;  // begins the next time, when the buffers end here
    if (const std::uint16_t due = connection.due(); due != 0) {
      if (!pop_buffer() || !give(connection.packet(due, cid_), 0)) return false;
      given = true;
    }
    if (!connection.can_read() || connection.credit() == 0) continue;
    if (!pop_buffer()) return false;
    const Given data = give_data(connection);
    if (data == Given::kBroken) return false;
    given = given || data == Given::kDone;
  }
  return given;
}

// From the program's socket right into the guest's buffers, behind the header.
VirtioVsock::Given VirtioVsock::give_data(VsockConnection& connection) {
  std::array<iovec, kQueueSize> parts;
  std::size_t count = 0;
  std::size_t skip = sizeof(VsockHeader);
  std::size_t room = std::min(connection.credit(), VsockConnection::kBuffer);
  for (const auto& buffer : chain_.writable) {
    auto bytes = buffer.bytes().subspan(std::min(skip, buffer.bytes().size()));
    skip -= buffer.bytes().size() - bytes.size();
    bytes = bytes.first(std::min(bytes.size(), room));
    room -= bytes.size();
    if (!bytes.empty()) parts[count++] = {bytes.data(), bytes.size()};
  }
  if (count == 0) {
    break_device();  // a buffer without room for a byte
    return Given::kBroken;
  }
  msghdr message{};
  message.msg_iov = parts.data();
  message.msg_iovlen = count;
  const ssize_t got = ::recvmsg(connection.fd(), &message, MSG_DONTWAIT);
  if (got <= 0) {
    put_back();
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) return Given::kNothing;
    pollfd poll{connection.fd(), 0, 0};
    connection.program_ended(got < 0 ||
                             (::poll(&poll, 1, 0) == 1 && (poll.revents & POLLHUP) != 0));
    return Given::kDone;  // what the guest is to be told
  }
  VsockHeader header = connection.packet(kVsockData, cid_);
  header.length = static_cast<std::uint32_t>(got);
  connection.sent(header.length);
  return give(header, header.length) ? Given::kDone : Given::kBroken;
}

// The guest's next buffer into chain_; false when there is none, or the driver broke the rules.
bool VirtioVsock::pop_buffer() {
  Virtqueue& queue = *ports_[kReceive].queue;
  for (;;) {
    const auto result = queue.pop(chain_);
    if (result == Virtqueue::Pop::kChain && chain_.readable.empty()) return true;
    if (result != Virtqueue::Pop::kEmpty) {
      break_device();
      return false;
    }
    if (queue.arm_doorbell()) continue;
    if (queue.broken()) break_device();
    no_buffers_ = true;
    return false;
  }
}

void VirtioVsock::put_back() {
  for (auto& buffer : chain_.writable) buffer.unwritten();
  chain_.writable.clear();
  ports_[kReceive].queue->rewind(1);
}

bool VirtioVsock::give(const VsockHeader& header, std::size_t data) {
  const bool fits = scatter(chain_, std::as_bytes(std::span(&header, 1)));
  chain_.writable.clear();
  if (!fits || !ports_[kReceive].queue->push(chain_.head,
                                             static_cast<std::uint32_t>(sizeof header + data))) {
    break_device();
    return false;
  }
  return true;
}

void VirtioVsock::announce_reset() {
  Virtqueue& queue = *ports_[kEvent].queue;
  do {
    const auto result = queue.pop(chain_);
    if (result == Virtqueue::Pop::kEmpty) continue;
    if (result == Virtqueue::Pop::kBroken ||
        !scatter(chain_, std::as_bytes(std::span(&kTransportReset, 1)))) {
      return break_device();
    }
    chain_.writable.clear();
    if (!queue.push(chain_.head, sizeof kTransportReset)) return break_device();
    reset_due_ = false;
    return notify(kEvent);
  } while (queue.arm_doorbell());
  if (queue.broken()) break_device();
}

// -- connections

void VirtioVsock::drop(Connections::iterator at, bool tell_guest) {
  if (tell_guest) queue_reset(at->first.first, at->first.second);
  connections_.erase(at);
}

void VirtioVsock::queue_reset(std::uint32_t host_port, std::uint32_t guest_port) {
  resets_.emplace_back(host_port, guest_port);
}

// Ports from 2^30 on are for programs that connect; one is free, since connections are few.
std::uint32_t VirtioVsock::free_port() {
  for (;;) {
    const std::uint32_t port = next_port_;
    next_port_ = next_port_ == UINT32_MAX ? 1U << 30 : next_port_ + 1;
    const auto at = connections_.lower_bound({port, 0});
    if (at == connections_.end() || at->first.first != port) return port;
  }
}

void VirtioVsock::break_device() {
  if (std::exchange(broken_, true)) return;
  host_->needs_reset();
}

void VirtioVsock::notify(Queue queue) {
  if (!broken_ && ports_[queue].queue->wants_interrupt()) host_->interrupt_queue(queue);
}

}  // namespace godwit::devices
