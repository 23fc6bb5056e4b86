#include "migration/stream_door.h"

#include <fmt/format.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <iterator>
#include <utility>

#include "migration/tls/module.h"
#include "vmm/sys/error.h"

namespace godwit::migration {

namespace {

constexpr std::size_t kMaxWaiting = 64;  // more drop the oldest
constexpr std::chrono::milliseconds kJoinTimeout{2000};
constexpr std::size_t kIntroduction = sizeof(Preamble) + sizeof(FrameHeader) + sizeof(Join);

void watch(const sys::UniqueFd& epoll, int fd) {
  epoll_event event{};
  event.events = EPOLLIN;
  event.data.fd = fd;
  sys::check(::epoll_ctl(epoll.get(), EPOLL_CTL_ADD, fd, &event), "epoll_ctl");
}

/// In a time that does not tell how much of it is right.
bool same_token(const char* shown, const std::string& token) {
  unsigned char difference = 0;
  for (std::size_t i = 0; i < kJoinToken; ++i) {
    difference |= static_cast<unsigned char>(shown[i] ^ token[i]);
  }
  return difference == 0;
}

}  // namespace

StreamDoor::StreamDoor(int listener, std::string token, std::size_t count,
                       std::shared_ptr<const tls::Context> tls)
    : listener_(listener),
      token_(std::move(token)),
      count_(count),
      tls_(std::move(tls)),
      epoll_(sys::check(::epoll_create1(EPOLL_CLOEXEC), "epoll_create1")) {
  // They come at once, and in vain where the queue is full: its length can be changed later, too.
  sys::check(::listen(listener, kMaxStreams), "listen");
  watch(epoll_, listener);
}

void StreamDoor::accept_some() {
  pollfd more{listener_, POLLIN, 0};
  while (::poll(&more, 1, 0) == 1) {
    Guest guest;
    guest.socket.reset(::accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (!guest.socket) return;
    if (tls_) {
      guest.handshake =
          tls_->module().accept(guest.socket.get(), "the source", tls::Records::kByKernel);
    } else if (!greet(guest)) {
      continue;
    }
    if (waiting_.size() == kMaxWaiting) waiting_.pop_front();
    watch(epoll_, guest.socket.get());
    waiting_.push_back(std::move(guest));
  }
}

/// An empty socket takes all of it.
bool StreamDoor::greet(Guest& guest) {
  Preamble mine;
  const iovec part{&mine, sizeof mine};
  const ssize_t sent = guest.stream ? guest.stream->send({&part, 1})
                                    : ::send(guest.socket.get(), &mine, sizeof mine, MSG_NOSIGNAL);
  return sent == sizeof mine;
}

/// False when it is to be dropped or has been taken: done with either way.
bool StreamDoor::hear(Guest& guest) {
  try {
    if (guest.handshake) {
      if (guest.handshake->step() != 0) return true;
      guest.stream = guest.handshake->finish();
      guest.handshake.reset();
      if (!greet(guest)) return false;
    }
    while (guest.said.size() < kIntroduction) {
      std::array<std::byte, kIntroduction> buffer;
      const iovec part{buffer.data(), kIntroduction - guest.said.size()};
      const ssize_t got =
          guest.stream ? guest.stream->receive({&part, 1}) : ::readv(guest.socket.get(), &part, 1);
      if (got < 0) return errno == EAGAIN || errno == EINTR;
      if (got == 0) return false;
      guest.said.insert(guest.said.end(), buffer.begin(), buffer.begin() + got);
    }
  } catch (const tls::Error&) {
    return false;
  }
  if (is_known(guest.said) && joined_.size() < count_) {
    ::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, guest.socket.get(), nullptr);
    joined_.emplace_back(std::move(guest.socket), std::move(guest.stream));
  }
  return false;
}

bool StreamDoor::is_known(std::span<const std::byte> said) const {
  Preamble preamble;
  FrameHeader header;
  Join join;
  const std::byte* at = said.data();
  std::memcpy(&preamble, at, sizeof preamble);
  std::memcpy(&header, at + sizeof preamble, sizeof header);
  std::memcpy(&join, at + sizeof preamble + sizeof header, sizeof join);
  return std::memcmp(preamble.magic, Preamble{}.magic, sizeof preamble.magic) == 0 &&
         preamble.version == kProtocolVersion && header.magic == FrameHeader::kMagic &&
         header.kind == MessageKind::kJoin && header.length == sizeof join &&
         same_token(join.token, token_);
}

// Waits once, for whatever comes first.
void StreamDoor::look(Wire& wire, int timeout_ms) {
  if (!wire.wait_for(epoll_.get(), timeout_ms)) {
    throw ChannelError("the peer did not answer in time");
  }
  std::array<epoll_event, 16> events;
  const int ready = ::epoll_wait(epoll_.get(), events.data(), events.size(), 0);
  for (int i = 0; i < ready; ++i) {
    const int fd = events[static_cast<std::size_t>(i)].data.fd;
    const auto guest = std::find_if(waiting_.begin(), waiting_.end(),
                                    [&](const Guest& one) { return one.socket.get() == fd; });
    if (fd == listener_) {
      accept_some();
    } else if (guest != waiting_.end() && !hear(*guest)) {
      waiting_.erase(guest);
    }
  }
}

void StreamDoor::await_frame(Wire& wire, int timeout_ms) {
  watch(epoll_, wire.fd());
  const auto until = Wire::Clock::now() + std::chrono::milliseconds(timeout_ms);
  while (!wire.frame_waiting()) {
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(until - Wire::Clock::now());
    look(wire, static_cast<int>(std::max<long long>(left.count(), 0)));
  }
  ::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, wire.fd(), nullptr);
}

std::vector<Wire> StreamDoor::take(Wire& wire, std::size_t count) {
  const auto until = Wire::Clock::now() + kJoinTimeout;
  while (joined_.size() < count) {
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(until - Wire::Clock::now());
    if (left.count() <= 0) {
      throw ChannelError(
          fmt::format("only {} of the peer's {} further streams came", joined_.size(), count));
    }
    if (wire.wait_for(epoll_.get(), static_cast<int>(left.count()))) look(wire, 0);
  }
  std::vector<Wire> taken(
      std::make_move_iterator(joined_.begin()),
      std::make_move_iterator(joined_.begin() + static_cast<std::ptrdiff_t>(count)));
  joined_.clear();
  waiting_.clear();
  return taken;
}

std::vector<Wire> join_streams(const std::string& to, const std::string& token, std::size_t count,
                               const Security& security, int stop) {
  std::vector<Wire> streams;
  Join join;
  std::memcpy(join.token, token.data(), std::min(token.size(), sizeof join.token));
  try {
    pollfd stopped{stop, POLLIN, 0};
    while (streams.size() < count && ::poll(&stopped, 1, 0) == 0) {
      const auto timeout = std::chrono::milliseconds(800);  // a cancel waits for it
      Wire stream = Wire::connect(to, timeout, stop);
      stream.meet(security, timeout);
      stream.send({.kind = MessageKind::kJoin}, std::as_bytes(std::span(&join, 1)));
      streams.push_back(std::move(stream));
    }
  } catch (const ChannelError&) {
    // By fewer, then.
  }
  return streams;
}

}  // namespace godwit::migration
