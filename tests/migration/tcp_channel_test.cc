#include "migration/tcp_channel.h"

#include <gtest/gtest.h>

#include "tests/migration/channel_suite.h"
#include "tests/migration/sockets.h"

namespace godwit::testing {
namespace {

using migration::Role;
using migration::TcpChannel;
using migration::Wire;

struct TcpEnds : ChannelEnds {
  explicit TcpEnds(std::pair<sys::UniqueFd, sys::UniqueFd> sockets)
      : source_wire(std::move(sockets.first)), destination_wire(std::move(sockets.second)) {
    source = std::make_unique<TcpChannel>(source_wire, source_ram, Role::kSource);
    destination =
        std::make_unique<TcpChannel>(destination_wire, destination_ram, Role::kDestination);
  }
  Wire source_wire;
  Wire destination_wire;
};

std::pair<sys::UniqueFd, sys::UniqueFd> unix_pair() {
  int fds[2];
  sys::check(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), "socketpair");
  return {sys::UniqueFd(fds[0]), sys::UniqueFd(fds[1])};
}

INSTANTIATE_TEST_SUITE_P(
    Transports, ChannelTest,
    ::testing::Values(Transport{"loopback", [] { return std::make_unique<TcpEnds>(unix_pair()); }},
                      Transport{"tcp", [] { return std::make_unique<TcpEnds>(tcp_pair()); }}),
    [](const auto& one) { return one.param.name; });

}  // namespace
}  // namespace godwit::testing
