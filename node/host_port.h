// HOST:PORT as people write it.
#pragma once

#include <cstdint>
#include <string>

namespace godwit::node {

struct HostPort {
  std::string host;  // without brackets; may be empty
  std::uint16_t port = 0;
};

/// Throws std::invalid_argument, one line, for what is none; an IPv6 address must stand in
/// brackets.
HostPort parse_host_port(const std::string& text);

/// Why nobody can be reached there; empty if that may be tried.
std::string destination_complaint(const std::string& text);

}  // namespace godwit::node
