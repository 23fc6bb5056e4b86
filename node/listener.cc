#include "node/listener.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <netdb.h>
#include <poll.h>
#include <sys/socket.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <memory>
#include <stdexcept>

#include "node/host_port.h"
#include "vmm/sys/error.h"

namespace godwit::node {

namespace {

struct FreeAddresses {
  void operator()(addrinfo* list) const { ::freeaddrinfo(list); }
};

}  // namespace

Listener::Listener(const std::string& host_port, int backlog) {
  const HostPort where = parse_host_port(host_port);
  const std::string port = std::to_string(where.port);
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE | AI_NUMERICSERV;
  addrinfo* found = nullptr;
  const int error = ::getaddrinfo(where.host.empty() ? nullptr : where.host.c_str(), port.c_str(),
                                  &hints, &found);
  if (error != 0) throw std::runtime_error(fmt::format("{}: {}", host_port, ::gai_strerror(error)));
  const std::unique_ptr<addrinfo, FreeAddresses> addresses(found);

  socket_.reset(::socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!socket_) throw std::runtime_error(fmt::format("socket: {}", std::strerror(errno)));
  const int on = 1;
  ::setsockopt(socket_.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  if (::bind(socket_.get(), found->ai_addr, found->ai_addrlen) < 0 ||
      ::listen(socket_.get(), backlog) < 0) {
    throw std::runtime_error(fmt::format("{}: {}", host_port, std::strerror(errno)));
  }
}

std::string Listener::address() const {
  sockaddr_storage storage{};
  socklen_t size = sizeof storage;
  std::array<char, NI_MAXHOST> host{};
  std::array<char, NI_MAXSERV> port{};
  auto* const address = reinterpret_cast<sockaddr*>(&storage);
  sys::check(::getsockname(socket_.get(), address, &size), "getsockname");
  ::getnameinfo(address, size, host.data(), host.size(), port.data(), port.size(),
                NI_NUMERICHOST | NI_NUMERICSERV);
  const bool brackets = storage.ss_family == AF_INET6;
  return fmt::format("{}{}{}:{}", brackets ? "[" : "", host.data(), brackets ? "]" : "",
                     port.data());
}

sys::UniqueFd Listener::share() const {
  return sys::UniqueFd(
      sys::check(::fcntl(socket_.get(), F_DUPFD_CLOEXEC, 0), "share a listening socket"));
}

sys::UniqueFd Listener::accept(const sys::EventFd& stop) const {
  for (;;) {
    std::array<pollfd, 2> fds{{{socket_.get(), POLLIN, 0}, {stop.fd(), POLLIN, 0}}};
    if (::poll(fds.data(), fds.size(), -1) < 0 && errno != EINTR) sys::throw_errno("poll");
    if (fds[1].revents != 0) return {};
    if (fds[0].revents == 0) continue;
    sys::UniqueFd connection(::accept4(socket_.get(), nullptr, nullptr, SOCK_CLOEXEC));
    if (connection) return connection;
    if (errno != EINTR && errno != ECONNABORTED && errno != EAGAIN) sys::throw_errno("accept");
  }
}

}  // namespace godwit::node
