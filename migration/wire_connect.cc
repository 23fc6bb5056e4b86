// How a Wire comes about: the connection, TLS, the preambles.
#include <fmt/format.h>
#include <netdb.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <memory>

#include "migration/tls/module.h"
#include "migration/wire.h"

namespace godwit::migration {

namespace {

using std::chrono::milliseconds;

constexpr milliseconds kGlance{100};
constexpr milliseconds kLinger{500};
constexpr const char* kSource = "the source";
constexpr const char* kDestination = "the destination";

/// What a TLS record begins with: a handshake or an alert (RFC 8446, 5.1).
bool begins_tls(std::byte first) { return first == std::byte{22} || first == std::byte{21}; }

std::string advice(tls::Error::Kind kind) {
  switch (kind) {
    case tls::Error::Kind::kName:
      return ": --tls-name says whose is good";
    case tls::Error::Kind::kPlain:
      return ": start godwit receive there with --tls-cert, --tls-key and --tls-ca";
    default:
      return "";
  }
}

/// 0, or errno.
int finish_connecting(int socket, Wire::Clock::time_point deadline, int stop) {
  const auto left = std::chrono::ceil<milliseconds>(deadline - Wire::Clock::now());
  std::array<pollfd, 2> polls{{{socket, POLLOUT, 0}, {stop, POLLIN, 0}}};
  const int left_ms = static_cast<int>(std::max<long long>(left.count(), 0));
  if (::poll(polls.data(), polls.size(), left_ms) <= 0) return ETIMEDOUT;
  if (polls[1].revents != 0) throw ChannelError("interrupted");
  int error = 0;
  socklen_t size = sizeof error;
  ::getsockopt(socket, SOL_SOCKET, SO_ERROR, &error, &size);
  return error;
}

}  // namespace

Wire Wire::connect(const std::string& host_port, milliseconds timeout, int stop) {
  const auto colon = host_port.rfind(':');
  if (colon == std::string::npos) throw ChannelError(host_port + ": must be HOST:PORT");
  std::string host = host_port.substr(0, colon);
  if (host.size() > 2 && host.front() == '[' && host.back() == ']')
    host = host.substr(1, host.size() - 2);
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* raw = nullptr;
  const int error = ::getaddrinfo(host.c_str(), host_port.c_str() + colon + 1, &hints, &raw);
  if (error != 0) throw ChannelError(fmt::format("{}: {}", host_port, ::gai_strerror(error)));
  const std::unique_ptr<addrinfo, decltype(&::freeaddrinfo)> list(raw, ::freeaddrinfo);

  std::string why = "no address";
  const auto deadline = Clock::now() + timeout;
  for (const addrinfo* at = raw; at != nullptr; at = at->ai_next) {
    sys::UniqueFd socket(::socket(at->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (!socket) continue;
    int result = ::connect(socket.get(), at->ai_addr, at->ai_addrlen) == 0 ? 0 : errno;
    if (result == EINPROGRESS) result = finish_connecting(socket.get(), deadline, stop);
    if (result == 0) return Wire(std::move(socket));
    why = std::strerror(result);
  }
  throw ChannelError(
      fmt::format("cannot connect to {}: {}: does `godwit receive` listen there?", host_port, why));
}

void Wire::meet(const Security& security, milliseconds timeout) {
  const auto whole = deadline_;
  const auto limit = Clock::now() + timeout;
  deadline_ = whole ? std::min(*whole, limit) : limit;
  if (security.context) {
    const auto handshake = security.context->module().connect(fd(), security.name, kDestination,
                                                              tls::Records::kByKernel);
    shake_hands(*handshake, kDestination);
  }
  greet();
  deadline_ = whole;
}

bool Wire::accept_tls(const tls::Context& context) {
  if (!begins_tls(first_byte())) return false;
  shake_hands(*context.module().accept(fd(), kSource, tls::Records::kByKernel), kSource);
  return true;
}

void Wire::shake_hands(tls::Handshake& handshake, const char* who) {
  try {
    while (const short events = handshake.step()) {
      if (deadline_ && Clock::now() >= *deadline_) {
        throw ChannelError(fmt::format("{} does not finish the TLS handshake in time", who));
      }
      poll_socket(events, -1);
    }
    tls_ = handshake.finish();
  } catch (const tls::Error& error) {
    linger();
    throw ChannelError(error.what() + advice(error.kind()));
  }
}

/// Waits for it, and leaves it where it is.
std::byte Wire::first_byte() {
  std::byte first{};
  for (;;) {
    const ssize_t got = ::recv(fd(), &first, 1, MSG_PEEK | MSG_DONTWAIT);
    if (got == 1) return first;
    if (got == 0 || (errno != EAGAIN && errno != EINTR)) {
      throw ChannelError("the peer closed the connection");
    }
    poll_socket(POLLIN, -1);
  }
}

// Closing with bytes unread would take the alert away that tells the peer why.
void Wire::linger() noexcept {
  ::shutdown(fd(), SHUT_WR);
  const auto until = Clock::now() + kLinger;
  std::array<std::byte, 4096> waste;
  pollfd poll{fd(), POLLIN, 0};
  while (Clock::now() < until && ::poll(&poll, 1, static_cast<int>(kGlance.count())) >= 0) {
    if (poll.revents != 0 && ::recv(fd(), waste.data(), waste.size(), MSG_DONTWAIT) <= 0) return;
  }
}

void Wire::greet() {
  Preamble mine;
  iovec part{&mine, sizeof mine};
  while (try_send({&part, 1}) < 0) {  // an empty socket takes all of it
    if (errno != EAGAIN && errno != EINTR) fail("greet the peer");
    poll_socket(POLLOUT, -1);
  }
  Preamble theirs;
  receive_exactly(std::as_writable_bytes(std::span(&theirs, 1)));
  if (std::memcmp(theirs.magic, mine.magic, sizeof mine.magic) != 0) {
    if (!tls_ && begins_tls(static_cast<std::byte>(theirs.magic[0]))) {
      throw ChannelError(
          "the source uses TLS, and this end has no certificate: start godwit receive with "
          "--tls-cert, --tls-key and --tls-ca");
    }
    throw ChannelError("the peer is not Godwit: what it sent is not Godwit's protocol");
  }
  if (theirs.version != mine.version) {
    throw ChannelError(
        fmt::format("the peer speaks version {} of the protocol, this is version {}: "
                    "run the same Godwit on both hosts",
                    theirs.version, mine.version));
  }
}

const char* Wire::tls() const { return !tls_ ? "none" : tls_->in_kernel() ? "kernel" : "user"; }

}  // namespace godwit::migration
