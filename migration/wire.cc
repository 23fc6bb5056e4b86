#include "migration/wire.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/sockios.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <climits>
#include <cstring>
#include <utility>

#include "vmm/sys/error.h"

namespace godwit::migration {

namespace {

using std::chrono::milliseconds;

constexpr milliseconds kPingEvery{200};
constexpr std::size_t kWorthWaking = 256 << 10;  // bytes that have come, of many

void set_option(int fd, int level, int name, int value) {
  ::setsockopt(fd, level, name, &value, sizeof value);  // a UNIX socket (tests) has none of these
}

/// Drops `done` bytes from the front of `parts`.
std::span<iovec> drop_front(std::span<iovec> parts, std::size_t done) {
  while (!parts.empty() && done >= parts[0].iov_len) {
    done -= parts[0].iov_len;
    parts = parts.subspan(1);
  }
  if (!parts.empty()) {
    parts[0].iov_base = static_cast<std::byte*>(parts[0].iov_base) + done;
    parts[0].iov_len -= done;
  }
  return parts;
}

std::size_t bytes_in(std::span<const iovec> parts) {
  std::size_t bytes = 0;
  for (const iovec& part : parts) bytes += part.iov_len;
  return bytes;
}

/// While it lives, a socket is not readable before so many bytes have come, its buffer is full, or
/// the peer has closed.
class LowWater {
 public:
  LowWater(int fd, std::size_t bytes) : fd_(fd) { set(static_cast<int>(bytes)); }
  LowWater(const LowWater&) = delete;
  LowWater& operator=(const LowWater&) = delete;
  ~LowWater() { set(1); }

 private:
  void set(int bytes) const { set_option(fd_, SOL_SOCKET, SO_RCVLOWAT, bytes); }
  int fd_;
};

/// What TLS complains of is the peer's fault, or ours in its eyes.
template <typename Call>
auto of_tls(Call call) {
  try {
    return call();
  } catch (const tls::Error& error) {
    throw ChannelError(error.what());
  }
}

int left_ms(std::optional<Wire::Clock::time_point> deadline) {
  if (!deadline) return -1;
  const auto left = std::chrono::ceil<milliseconds>(*deadline - Wire::Clock::now()).count();
  return static_cast<int>(std::clamp<long long>(left, 0, 1 << 30));
}

}  // namespace

Wire::Wire(sys::UniqueFd socket, std::unique_ptr<tls::Stream> stream)
    : socket_(std::move(socket)), tls_(std::move(stream)) {
  const int flags = sys::check(::fcntl(fd(), F_GETFL), "fcntl");
  sys::check(::fcntl(fd(), F_SETFL, flags | O_NONBLOCK), "fcntl");
  set_option(fd(), IPPROTO_TCP, TCP_NODELAY, 1);
  // Where nothing of ours is on its way, as in the middle of a frame of the peer's, a cut link
  // shows by these.
  set_option(fd(), SOL_SOCKET, SO_KEEPALIVE, 1);
  set_option(fd(), IPPROTO_TCP, TCP_KEEPIDLE, 1);
  set_option(fd(), IPPROTO_TCP, TCP_KEEPINTVL, 1);
  set_patience(kPatience);
}

void Wire::set_patience(milliseconds patience) {
  patience_ = patience;
  set_option(fd(), IPPROTO_TCP, TCP_USER_TIMEOUT, static_cast<int>(patience.count()));
}

/// False when none of `events` came within `most_ms`; negative: as long as the deadline allows.
bool Wire::poll_socket(short events, int most_ms) {
  const int left = left_ms(deadline_);
  if (left == 0) throw TimedOut("timed out waiting for the peer");
  std::array<pollfd, 2> polls{{{fd(), events, 0}, {interrupt_.fd(), POLLIN, 0}}};
  const int wait_ms = most_ms < 0 ? left : left < 0 ? most_ms : std::min(left, most_ms);
  const int ready = ::poll(polls.data(), polls.size(), wait_ms);
  if (ready < 0 && errno != EINTR) sys::throw_errno("poll");
  if (ready > 0 && polls[1].revents != 0) throw ChannelError("interrupted");
  return ready > 0;
}

void Wire::wait(short events) {
  // A peer that cannot get rid of its Pings may be what keeps us from sending.
  const bool heeds = events == POLLOUT;
  while (!poll_socket(events, heeds ? static_cast<int>(kPingEvery.count()) : -1)) {
    if (heeds) heed_peer();
  }
}

// Woken for every segment, a thread takes longer to wake than to read.
void Wire::wait_for_bytes(std::size_t bytes) {
  if (tls_) return wait(POLLIN);
  const LowWater low_water(fd(), std::min(bytes, kWorthWaking));
  wait(POLLIN);
}

/// As sendmsg(2).
ssize_t Wire::try_send(std::span<iovec> parts, bool more) {
  if (tls_) {
    return of_tls([&] { return tls_->send(parts); });
  }
  msghdr message{};
  message.msg_iov = parts.data();
  message.msg_iovlen = std::min<std::size_t>(parts.size(), IOV_MAX);
  return ::sendmsg(fd(), &message, MSG_NOSIGNAL | (more ? MSG_MORE : 0));
}

/// As readv(2).
ssize_t Wire::try_receive(std::span<iovec> parts) {
  if (tls_) {
    return of_tls([&] { return tls_->receive(parts); });
  }
  const auto count = std::min<std::size_t>(parts.size(), IOV_MAX);
  return ::readv(fd(), parts.data(), static_cast<int>(count));
}

void Wire::fail(const char* doing) {
  if (errno == EPIPE || errno == ECONNRESET) throw ChannelError("the peer closed the connection");
  if (errno == ETIMEDOUT) throw ChannelError("the peer no longer answers: the link is cut");
  throw ChannelError(fmt::format("{}: {}", doing, std::strerror(errno)));
}

void Wire::send(FrameHeader header, std::span<const std::byte> payload) {
  std::array<iovec, 2> parts{{{}, {const_cast<std::byte*>(payload.data()), payload.size()}}};
  send_parts(header, parts);
}

void Wire::send_json(MessageKind kind, const std::string& text) {
  send({.kind = kind}, std::as_bytes(std::span(text)));
}

void Wire::send_parts(FrameHeader header, std::span<iovec> parts, bool guest_ram) {
  header.length = bytes_in(parts.subspan(1));
  parts[0] = {&header, sizeof header};
  const auto by_reference = [&](const iovec& part) {
    return guest_ram && part.iov_len >= kWorthSplicing && splices();
  };
  // The header and the list of pages are copied in any case.
  auto next = parts.begin() + std::min<std::ptrdiff_t>(3, std::ssize(parts));
  for (; !parts.empty(); next = parts.begin()) {
    next = std::find_if(next, parts.end(), by_reference);
    const auto copied = static_cast<std::size_t>(next - parts.begin());
    send_copied(parts.first(copied), copied < parts.size());
    parts = parts.subspan(copied);
    if (parts.empty()) break;
    send_by_reference({static_cast<const std::byte*>(parts[0].iov_base), parts[0].iov_len},
                      parts.size() > 1);
    parts = parts.subspan(1);
  }
  last_sent_ = Clock::now();
}

void Wire::send_copied(std::span<iovec> parts, bool more) {
  while (!parts.empty()) {
    const ssize_t sent = try_send(parts, more);
    if (sent < 0) {
      if (errno != EAGAIN && errno != EINTR) fail_send();
      wait(POLLOUT);
      continue;
    }
    bytes_sent_ += static_cast<std::uint64_t>(sent);
    parts = drop_front(parts, static_cast<std::size_t>(sent));
  }
}

void Wire::ping_if_due() {
  if (Clock::now() - last_sent_ >= kPingEvery) send({.kind = MessageKind::kPing});
}

bool Wire::wait_for(int fd_to_watch, int timeout_ms) {
  const auto until =
      timeout_ms < 0 ? std::optional<Clock::time_point>() : Clock::now() + milliseconds(timeout_ms);
  for (;;) {
    ping_if_due();
    // The connection itself is watched for its end only: what it has to say is somebody else's
    // turn.
    const bool own = fd_to_watch == fd();
    if (own && tls_ && readable()) return true;
    std::array<pollfd, 3> polls{
        {{fd_to_watch, POLLIN, 0}, {interrupt_.fd(), POLLIN, 0}, {own ? -1 : fd(), POLLRDHUP, 0}}};
    int wait_ms = static_cast<int>(kPingEvery.count());
    if (const int left = left_ms(until); left >= 0) wait_ms = std::min(wait_ms, left);
    if (const int left = left_ms(deadline_); left >= 0) wait_ms = std::min(wait_ms, left);
    const int ready = ::poll(polls.data(), polls.size(), wait_ms);
    if (ready < 0 && errno != EINTR) sys::throw_errno("poll");
    if (ready > 0) {
      if (polls[1].revents != 0) throw ChannelError("interrupted");
      if (polls[0].revents == 0) {
        require_peer();
      } else if (!own || !tls_) {  // part of a TLS record says nothing yet
        return true;
      }
    }
    if (deadline_ && Clock::now() >= *deadline_) throw TimedOut("timed out waiting for the peer");
    if (until && Clock::now() >= *until) return false;
  }
}

// What the peer said last tells more than that it has gone.
void Wire::fail_send() {
  const int error = errno;
  heed_peer();
  errno = error;
  fail("send to the peer");
}

void Wire::heed_peer() {
  while (!early_ && readable()) {
    FrameHeader header;
    const auto bytes = std::as_writable_bytes(std::span(&header, 1));
    iovec begin{bytes.data(), bytes.size()};
    const ssize_t got = try_receive({&begin, 1});
    if (got <= 0) return;
    // To its end: a torn header left unread would hold a whole segment in the receive buffer, and
    // with it the peer.
    receive_exactly(bytes.subspan(static_cast<std::size_t>(got)));
    const bool gave_up = header.kind == MessageKind::kRefuse || header.kind == MessageKind::kAbort;
    const bool sound =
        header.magic == FrameHeader::kMagic && header.length <= max_payload(header.kind);
    if (sound && header.kind == MessageKind::kPing) continue;
    if (!sound || !gave_up) {
      early_ = header;
      return;
    }
    const std::string why = decode_reason(receive_payload(header));
    throw PeerGaveUp((header.kind == MessageKind::kRefuse ? "the destination refused: "
                                                          : "the source gave up: ") +
                     why);
  }
}

bool Wire::frame_waiting() {
  heed_peer();
  if (early_) return true;
  pollfd poll{fd(), POLLRDHUP, 0};
  if (::poll(&poll, 1, 0) == 1) {
    heed_peer();  // what came in between
    if (!early_) throw ChannelError("the peer closed the connection");
  }
  return early_.has_value();
}

std::size_t Wire::unsent() const {
  int bytes = 0;
  return ::ioctl(fd(), SIOCOUTQNSD, &bytes) == 0 && bytes > 0 ? static_cast<std::size_t>(bytes) : 0;
}

std::size_t Wire::unacknowledged() const {
  int bytes = 0;
  return ::ioctl(fd(), SIOCOUTQ, &bytes) == 0 && bytes > 0 ? static_cast<std::size_t>(bytes) : 0;
}

void Wire::require_peer() {
  heed_peer();
  pollfd poll{fd(), POLLRDHUP, 0};
  if (::poll(&poll, 1, 0) == 1) throw ChannelError("the peer closed the connection");
}

bool Wire::readable() {
  if (early_) return true;
  if (tls_) {
    return of_tls([&] { return tls_->readable(); });
  }
  pollfd poll{fd(), POLLIN, 0};
  return ::poll(&poll, 1, 0) == 1;
}

FrameHeader Wire::receive_header(int timeout_ms) {
  for (;;) {
    FrameHeader header;
    if (early_) {
      header = *early_;
      early_.reset();
    } else {
      if (!wait_for(fd(), timeout_ms)) throw ChannelError("the peer did not answer in time");
      receive_exactly(std::as_writable_bytes(std::span(&header, 1)));
    }
    if (header.magic != FrameHeader::kMagic)
      throw ChannelError("the peer broke the framing of the protocol");
    if (header.length > max_payload(header.kind)) {
      throw ChannelError(fmt::format("the peer sent a {} of {} bytes: too long",
                                     kind_name(header.kind), header.length));
    }
    if (header.kind != MessageKind::kPing) return header;
  }
}

void Wire::receive_exactly(std::span<std::byte> into) {
  iovec part{into.data(), into.size()};
  receive_parts({&part, 1});
}

void Wire::receive_parts(std::span<iovec> parts) {
  parts = drop_front(parts, 0);
  while (!parts.empty()) {
    const ssize_t got = try_receive(parts);
    if (got == 0) throw ChannelError("the peer closed the connection");
    if (got < 0) {
      if (errno != EAGAIN && errno != EINTR) fail("receive from the peer");
      wait_for_bytes(bytes_in(parts));
      continue;
    }
    parts = drop_front(parts, static_cast<std::size_t>(got));
  }
}

std::vector<std::byte> Wire::receive_payload(const FrameHeader& header) {
  std::vector<std::byte> payload(header.length);
  receive_exactly(payload);
  return payload;
}

}  // namespace godwit::migration
