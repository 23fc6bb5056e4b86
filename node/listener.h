// A TCP port on which one peer is awaited, or, once its socket is handed to a server, many.
#pragma once

#include <string>

#include "vmm/sys/event_fd.h"
#include "vmm/sys/unique_fd.h"

namespace godwit::node {

class Listener {
 public:
  /// `host_port`: HOST:PORT; HOST may be empty (every address), an IPv6 address stands in brackets,
  /// PORT 0 lets the kernel choose. Throws std::invalid_argument for what is no HOST:PORT and
  /// std::runtime_error when it cannot be had, each with one line.
  /// `backlog`: connections that may wait to be accepted.
  explicit Listener(const std::string& host_port, int backlog = 1);

  /// "192.0.2.1:7000", "[2001:db8::1]:7000": numeric, with the real port.
  std::string address() const;

  /// Blocks for one connection; an empty descriptor when `stop` was signalled instead.
  sys::UniqueFd accept(const sys::EventFd& stop) const;

  /// Another descriptor of the listening socket, which goes on when this object ends. Throws
  /// std::system_error.
  sys::UniqueFd share() const;

  /// The listening socket, for a ControlServer; nothing else can be called after that.
  sys::UniqueFd take_socket() { return std::move(socket_); }

 private:
  sys::UniqueFd socket_;
};

}  // namespace godwit::node
