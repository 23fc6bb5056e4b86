#include "node/host_port.h"

#include <fmt/format.h>

#include <stdexcept>

#include "node/units.h"

namespace godwit::node {

HostPort parse_host_port(const std::string& text) {
  const auto bad = [&] {
    return std::invalid_argument(
        fmt::format("\"{}\" is not HOST:PORT; an IPv6 address stands in [brackets]", text));
  };
  const std::size_t colon = text.rfind(':');
  if (colon == std::string::npos) throw bad();
  HostPort result;
  result.host = text.substr(0, colon);
  std::string& host = result.host;
  if (host.size() > 2 && host.front() == '[' && host.back() == ']') {
    host = host.substr(1, host.size() - 2);
  } else if (host.find_first_of(":[]") != std::string::npos) {
    throw bad();
  }
  try {
    result.port = static_cast<std::uint16_t>(parse_count(text.substr(colon + 1), 0, 65535));
  } catch (const UnitError& error) {
    throw std::invalid_argument(fmt::format("the port {}", error.what()));
  }
  return result;
}

std::string destination_complaint(const std::string& text) {
  try {
    const HostPort where = parse_host_port(text);
    if (where.host.empty()) return fmt::format("\"{}\" names no host", text);
    if (where.port == 0) return "port 0 is nobody's";
  } catch (const std::invalid_argument& error) {
    return error.what();
  }
  return {};
}

}  // namespace godwit::node
