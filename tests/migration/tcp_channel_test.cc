#include "migration/tcp_channel.h"

#include <gtest/gtest.h>

#include "tests/migration/channel_suite.h"
#include "tests/migration/sockets.h"
#include "tests/migration/tcp_ends.h"

namespace godwit::testing {
namespace {

using migration::Wire;

Wires wires(std::pair<sys::UniqueFd, sys::UniqueFd> sockets) {
  return {Wire(std::move(sockets.first)), Wire(std::move(sockets.second))};
}

std::pair<sys::UniqueFd, sys::UniqueFd> unix_pair() {
  int fds[2];
  sys::check(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), "socketpair");
  return {sys::UniqueFd(fds[0]), sys::UniqueFd(fds[1])};
}

std::unique_ptr<ChannelEnds> tcp(int further_streams, migration::Compression compression = {}) {
  std::vector<Wires> further;
  for (int i = 0; i < further_streams; ++i) further.push_back(wires(tcp_pair()));
  return std::make_unique<TcpEnds>(wires(tcp_pair()), std::move(further), compression);
}

INSTANTIATE_TEST_SUITE_P(
    Transports, ChannelTest,
    ::testing::Values(Transport{"loopback",
                                [] { return std::make_unique<TcpEnds>(wires(unix_pair())); }},
                      Transport{"tcp", [] { return tcp(0); }},
                      Transport{"tcp_by_two", [] { return tcp(1); }},
                      Transport{"tcp_by_five", [] { return tcp(4); }},
                      Transport{"tcp_compressed", [] { return tcp(1, {true}); }}),
    [](const auto& one) { return one.param.name; });

}  // namespace
}  // namespace godwit::testing
