// Connected pairs of TCP sockets on one address of this machine.
#pragma once

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <string>
#include <utility>

#include "vmm/sys/error.h"
#include "vmm/sys/unique_fd.h"

namespace godwit::testing {

/// A listening socket on a free port of `address`, and "ADDRESS:PORT".
inline std::pair<sys::UniqueFd, std::string> listen_on(const std::string& address = "127.0.0.1") {
  sys::UniqueFd socket(sys::check(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), "socket"));
  sockaddr_in name{};
  name.sin_family = AF_INET;
  ::inet_pton(AF_INET, address.c_str(), &name.sin_addr);
  socklen_t size = sizeof name;
  sys::check(::bind(socket.get(), reinterpret_cast<sockaddr*>(&name), size), "bind");
  sys::check(::listen(socket.get(), 1), "listen");
  sys::check(::getsockname(socket.get(), reinterpret_cast<sockaddr*>(&name), &size), "getsockname");
  return {std::move(socket), address + ":" + std::to_string(ntohs(name.sin_port))};
}

/// A connection to it.
inline sys::UniqueFd connect_to(const sys::UniqueFd& listener) {
  sys::UniqueFd client(sys::check(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), "socket"));
  sockaddr_in to{};
  socklen_t size = sizeof to;
  sys::check(::getsockname(listener.get(), reinterpret_cast<sockaddr*>(&to), &size), "getsockname");
  sys::check(::connect(client.get(), reinterpret_cast<sockaddr*>(&to), sizeof to), "connect");
  return client;
}

inline sys::UniqueFd accept_from(const sys::UniqueFd& listener) {
  return sys::UniqueFd(
      sys::check(::accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC), "accept"));
}

inline std::pair<sys::UniqueFd, sys::UniqueFd> tcp_pair(const std::string& address = "127.0.0.1") {
  const auto listener = listen_on(address).first;
  sys::UniqueFd client = connect_to(listener);
  return {std::move(client), accept_from(listener)};
}

}  // namespace godwit::testing
