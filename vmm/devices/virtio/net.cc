#include "vmm/devices/virtio/net.h"

#include <poll.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "vmm/devices/virtio/arp.h"
#include "vmm/sys/error.h"

namespace godwit::devices {
namespace {

// 5.1.3
constexpr std::uint64_t kFeatureChecksum = 1ULL << 0, kFeatureGuestChecksum = 1ULL << 1,
                        kFeatureMtu = 1ULL << 3, kFeatureMac = 1ULL << 5,
                        kFeatureGuestTso4 = 1ULL << 7, kFeatureGuestTso6 = 1ULL << 8,
                        kFeatureGuestEcn = 1ULL << 9, kFeatureHostTso4 = 1ULL << 11,
                        kFeatureHostTso6 = 1ULL << 12, kFeatureHostEcn = 1ULL << 13,
                        kFeatureMergeable = 1ULL << 15, kFeatureStatus = 1ULL << 16,
                        kFeatureControl = 1ULL << 17, kFeatureAnnounce = 1ULL << 21;
constexpr std::uint64_t kFeatures =
    kFeatureChecksum | kFeatureGuestChecksum | kFeatureMac | kFeatureGuestTso4 | kFeatureGuestTso6 |
    kFeatureGuestEcn | kFeatureHostTso4 | kFeatureHostTso6 | kFeatureHostEcn | kFeatureMergeable |
    kFeatureStatus | kFeatureControl | kFeatureAnnounce;

constexpr std::uint16_t kLinkUp = 1, kAnnounce = 2;                                // 5.1.4: status
constexpr std::uint8_t kClassAnnounce = 3, kAnnounceAck = 0, kOk = 0, kError = 1;  // 5.1.6.5
constexpr std::size_t kNumBuffers = 10;  // its offset in the header

// The largest packet that TSO makes: 64 KiB of IP, Ethernet, a VLAN tag.
constexpr std::size_t kMaxPacket = NetPort::kHeaderSize + 65536 + 18;
constexpr unsigned kBatch = 256;  // packets of one direction before the other has its turn

constexpr std::array<std::uint16_t, 3> kQueueSizes = {VirtioNet::kQueueSize, VirtioNet::kQueueSize,
                                                      VirtioNet::kControlSize};
// 0, 100, 300, 600 and 1000 ms after the start.
constexpr std::chrono::milliseconds kAnnounceStep{100};

std::size_t size_of(const Chain& chain) {
  std::size_t size = 0;
  for (const auto& buffer : chain.readable) size += buffer.size();
  return size;
}

/// The first bytes of what the driver wrote, from `skip` on; returns how many.
std::size_t gather(const Chain& chain, std::size_t skip, std::span<std::byte> out) {
  std::size_t done = 0;
  for (auto buffer : chain.readable) {
    const std::size_t skipped = std::min(skip, buffer.size());
    skip -= skipped;
    buffer = buffer.subspan(skipped);
    const std::size_t size = std::min(buffer.size(), out.size() - done);
    std::memcpy(out.data() + done, buffer.data(), size);
    done += size;
  }
  return done;
}

}  // namespace

VirtioNet::VirtioNet(NetPort& port, const std::array<std::uint8_t, 6>& mac, std::uint16_t mtu)
    : port_(port),
      config_{mac, 0, 1, mtu},
      status_(kLinkUp),
      worker_(
          "virtio-net", [this] { serve(); }, [this] { break_device(); }) {}

std::uint64_t VirtioNet::features() const {
  return kFeatures | (config_.mtu != 0 ? kFeatureMtu : 0);
}

std::span<const std::uint16_t> VirtioNet::queue_sizes() const { return kQueueSizes; }

std::span<const std::byte> VirtioNet::config() const {
  config_.status = status_;
  return std::as_bytes(std::span(&config_, 1));
}

void VirtioNet::start(VirtioHost& host, std::uint64_t features,
                      std::span<const VirtioQueuePort> queues) {
  worker_.stop();
  host_ = &host;
  features_ = features;
  for (unsigned i = 0; i < kQueues; ++i) {
    ports_[i] = i < queues.size() && queues[i].queue->enabled() ? queues[i] : VirtioQueuePort{};
  }
  broken_ = false;
  packet_size_ = 0;
  no_buffers_ = false;
  if (arrived_) {
    announcements_ = kAnnouncements;
    next_announcement_ = Clock::now();
    if ((features & kFeatureAnnounce) != 0 && !copied_) status_ |= kAnnounce;
  }
  worker_.start();
}

void VirtioNet::reset() {
  status_ = kLinkUp;
  announcements_ = 0;
  arrived_ = copied_ = false;
  senders_.clear();
}

// The MAC and the MTU are the machine's configuration; the MAC is here to tell a copy of the guest,
// which has another one and must not announce the addresses of the first.
void VirtioNet::save(vmm::StateWriter& writer) const {
  writer.put(config_.mac);
  writer.put_array(std::span(senders_));
}

void VirtioNet::restore(vmm::StateReader& reader) {
  const auto mac = reader.get<std::array<std::uint8_t, 6>>();
  senders_ = reader.get_array<ArpSender>(kMaxSenders);
  copied_ = mac != config_.mac;
  if (copied_) senders_.clear();
  next_sender_ = 0;
  arrived_ = true;
}

// -- the I/O thread

void VirtioNet::serve() {
  const auto has = [this](std::uint64_t feature) { return (features_ & feature) != 0; };
  port_.set_offloads({.checksum = has(kFeatureGuestChecksum),
                      .tso4 = has(kFeatureGuestTso4),
                      .tso6 = has(kFeatureGuestTso6),
                      .ecn = has(kFeatureGuestEcn)});
  // What came before belongs to the guest at the other end.
  if (std::exchange(arrived_, false)) {
    discard_waiting();
    if ((status_ & kAnnounce) != 0) host_->config_changed();
  }
  while (!worker_.stopping()) {
    announce();
    bool more = false;
    if (!broken_ && usable(kReceive)) more = receive();
    if (!broken_ && usable(kTransmit)) more = transmit() || more;
    if (!broken_ && usable(kControl)) control();
    if (!more) wait();
  }
}

void VirtioNet::wait() {
  std::array<pollfd, 2 + kQueues> polls{};
  polls[0] = {worker_.wake_up().fd(), POLLIN, 0};
  // A packet that has no buffers waits, and those behind it.
  const bool receiving = !broken_ && usable(kReceive) && !no_buffers_ && !port_lost_;
  polls[1] = {receiving ? port_.fd() : -1, POLLIN, 0};
  for (unsigned i = 0; i < kQueues; ++i) {
    polls[2 + i] = {!broken_ && ports_[i].doorbell != nullptr ? ports_[i].doorbell->fd() : -1,
                    POLLIN, 0};
  }
  int timeout = -1;
  if (announcements_ > 0) {
    const auto left =
        std::chrono::ceil<std::chrono::milliseconds>(next_announcement_ - Clock::now());
    timeout = static_cast<int>(std::clamp<long>(left.count(), 0, 1000));
  }
  if (::poll(polls.data(), polls.size(), timeout) < 0 && errno != EINTR) sys::throw_errno("poll");
  if ((polls[1].revents & (POLLERR | POLLHUP | POLLNVAL)) != 0) {
    port_lost_ = true;  // somebody deleted the interface: the cable is out
    status_.fetch_and(static_cast<std::uint16_t>(~kLinkUp));
    host_->config_changed();
  }
  worker_.wake_up().drain();
  for (const VirtioQueuePort& port : ports_) {
    if (port.doorbell != nullptr) port.doorbell->drain();
  }
}

// True when there may be more.
bool VirtioNet::receive() {
  if (!packet_) packet_ = std::make_unique<std::byte[]>(kMaxPacket);
  bool more = true;
  for (unsigned i = 0; i < kBatch && !worker_.stopping(); ++i) {
    if (packet_size_ == 0) {
      const ssize_t size = ::read(port_.fd(), packet_.get(), kMaxPacket);
      more = size > 0;
      if (!more) break;  // none there, or the interface is down
      if (static_cast<std::size_t>(size) <= NetPort::kHeaderSize) continue;
      packet_size_ = static_cast<std::size_t>(size);
    }
    const Delivery delivery = deliver();
    no_buffers_ = delivery == Delivery::kNoBuffers;
    more = delivery == Delivery::kDone;
    if (!more) break;
  }
  notify(kReceive);
  return more;
}

// Copies the packet into as many chains as it needs (5.1.6.4), or one where the driver cannot
// merge.
VirtioNet::Delivery VirtioNet::deliver() {
  Virtqueue& queue = *ports_[kReceive].queue;
  const bool mergeable = (features_ & kFeatureMergeable) != 0;
  std::size_t room = 0;
  std::uint16_t used = 0;
  while (room < packet_size_) {
    if (chains_.size() == used) chains_.emplace_back();
    Chain& chain = chains_[used];
    const auto result = queue.pop(chain);
    if (result == Virtqueue::Pop::kEmpty) {
      const bool more = queue.arm_doorbell();  // for what comes after those that are too few
      put_back(std::exchange(used, std::uint16_t{0}));
      room = 0;
      if (more) continue;
      if (queue.broken()) break_device();
      return queue.broken() ? Delivery::kBroken : Delivery::kNoBuffers;
    }
    if (result == Virtqueue::Pop::kBroken || !chain.readable.empty() || chain.writable.empty()) {
      break_device();
      return Delivery::kBroken;
    }
    ++used;
    for (const auto& buffer : chain.writable) room += buffer.bytes().size();
    if (room < packet_size_ && (!mergeable || used == queue.state().size)) {
      put_back(used);  // it will never fit
      packet_size_ = 0;
      return Delivery::kDone;
    }
  }
  std::memcpy(packet_.get() + kNumBuffers, &used, sizeof used);
  std::span<const std::byte> rest(packet_.get(), packet_size_);
  for (Chain& chain : std::span(chains_).first(used)) {
    std::uint32_t written = 0;
    for (const auto& buffer : chain.writable) {
      const std::size_t size = std::min(rest.size(), buffer.bytes().size());
      std::memcpy(buffer.bytes().data(), rest.data(), size);
      rest = rest.subspan(size);
      written += static_cast<std::uint32_t>(size);
    }
    chain.writable.clear();
    if (!queue.stage(chain.head, written)) break;
  }
  if (!queue.publish()) {
    break_device();
    return Delivery::kBroken;
  }
  received_.fetch_add(packet_size_ - NetPort::kHeaderSize, std::memory_order_relaxed);
  packet_size_ = 0;
  return Delivery::kDone;
}

void VirtioNet::put_back(std::uint16_t count) {
  for (Chain& chain : std::span(chains_).first(count)) chain.writable.clear();
  ports_[kReceive].queue->rewind(count);
}

// True when there may be more.
bool VirtioNet::transmit() {
  Virtqueue& queue = *ports_[kTransmit].queue;
  for (unsigned i = 0; i < kBatch; ++i) {
    if (worker_.stopping()) break;
    const auto result = queue.pop(chain_);
    if (result == Virtqueue::Pop::kEmpty) {
      notify(kTransmit);
      if (queue.arm_doorbell()) continue;
      if (queue.broken()) break_device();
      return false;
    }
    if (result == Virtqueue::Pop::kBroken || !chain_.writable.empty()) {
      break_device();
      return false;
    }
    send(chain_);
    if (!queue.push(chain_.head, 0)) {
      break_device();
      return false;
    }
  }
  notify(kTransmit);
  return true;
}

// A packet that the host does not take is lost, as on any network.
void VirtioNet::send(const Chain& chain) {
  const std::size_t size = size_of(chain);
  if (size <= NetPort::kHeaderSize || size > kMaxPacket) return;
  std::array<iovec, kQueueSize> parts;
  std::size_t count = 0;
  for (const auto& buffer : chain.readable) {
    parts[count++] = {const_cast<std::byte*>(buffer.data()), buffer.size()};
  }
  std::array<std::byte, kArpFrameSize> start{};
  learn(std::span(start).first(gather(chain, NetPort::kHeaderSize, start)));
  if (::writev(port_.fd(), parts.data(), static_cast<int>(count)) < 0) return;
  sent_.fetch_add(size - NetPort::kHeaderSize, std::memory_order_relaxed);
}

void VirtioNet::learn(std::span<const std::byte> frame) {
  const auto sender = arp_sender(frame);
  if (!sender || std::find(senders_.begin(), senders_.end(), *sender) != senders_.end()) return;
  if (senders_.size() < kMaxSenders) {
    senders_.push_back(*sender);
  } else {
    senders_[next_sender_++ % kMaxSenders] = *sender;
  }
}

void VirtioNet::control() {
  Virtqueue& queue = *ports_[kControl].queue;
  do {
    for (unsigned i = 0; i < kControlSize && !worker_.stopping(); ++i) {
      const auto result = queue.pop(chain_);
      if (result == Virtqueue::Pop::kEmpty) break;
      if (result == Virtqueue::Pop::kBroken || chain_.writable.empty()) return break_device();
      chain_.writable.back().bytes().back() = std::byte{command(chain_)};
      chain_.writable.clear();
      if (!queue.push(chain_.head, 1)) return break_device();
    }
    notify(kControl);
  } while (!worker_.stopping() && queue.arm_doorbell());
  if (queue.broken()) break_device();
}

// 5.1.6.5: class, command; the answer is one byte. What was not offered is an error.
std::uint8_t VirtioNet::command(const Chain& chain) {
  std::array<std::byte, 2> head{};
  if (gather(chain, 0, head) != head.size()) return kError;
  if (head[0] != std::byte{kClassAnnounce} || head[1] != std::byte{kAnnounceAck}) return kError;
  status_.fetch_and(static_cast<std::uint16_t>(~kAnnounce));
  return kOk;
}

void VirtioNet::announce() {
  if (announcements_ == 0 || Clock::now() < next_announcement_) return;
  send_frame(rarp_announcement(config_.mac));
  for (const ArpSender& sender : senders_) send_frame(arp_announcement(sender));
  next_announcement_ += (kAnnouncements - announcements_ + 1) * kAnnounceStep;
  --announcements_;
}

void VirtioNet::send_frame(std::span<const std::byte> frame) const {
  std::array<std::byte, NetPort::kHeaderSize> header{};
  const std::array<iovec, 2> parts{
      {{header.data(), header.size()}, {const_cast<std::byte*>(frame.data()), frame.size()}}};
  if (::writev(port_.fd(), parts.data(), parts.size()) < 0) return;  // the next one may arrive
}

void VirtioNet::discard_waiting() {
  std::array<std::byte, 64> start;
  // Bounded: a flood must not keep the guest from its network.
  for (unsigned i = 0; i < 8192 && ::read(port_.fd(), start.data(), start.size()) > 0; ++i) {
  }
}

void VirtioNet::break_device() {
  if (std::exchange(broken_, true)) return;
  host_->needs_reset();
}

void VirtioNet::notify(Queue queue) {
  if (!broken_ && ports_[queue].queue->wants_interrupt()) host_->interrupt_queue(queue);
}

}  // namespace godwit::devices
