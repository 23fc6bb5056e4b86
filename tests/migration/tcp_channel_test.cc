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
  explicit TcpEnds(std::pair<sys::UniqueFd, sys::UniqueFd> sockets, int further_streams = 0,
                   migration::Compression compression = {})
      : source_wire(std::move(sockets.first)), destination_wire(std::move(sockets.second)) {
    std::vector<Wire> out;
    std::vector<Wire> in;
    for (int i = 0; i < further_streams; ++i) {
      auto [from, to] = tcp_pair();
      out.emplace_back(std::move(from));
      in.emplace_back(std::move(to));
    }
    source = std::make_unique<TcpChannel>(source_wire, source_ram, Role::kSource, std::move(out),
                                          compression);
    destination = std::make_unique<TcpChannel>(destination_wire, destination_ram,
                                               Role::kDestination, std::move(in));
  }
  // The channels use the wires.
  ~TcpEnds() override {
    source.reset();
    destination.reset();
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
    ::testing::Values(
        Transport{"loopback", [] { return std::make_unique<TcpEnds>(unix_pair()); }},
        Transport{"tcp", [] { return std::make_unique<TcpEnds>(tcp_pair()); }},
        Transport{"tcp_by_two", [] { return std::make_unique<TcpEnds>(tcp_pair(), 1); }},
        Transport{"tcp_by_five", [] { return std::make_unique<TcpEnds>(tcp_pair(), 4); }},
        Transport{
            "tcp_compressed",
            [] { return std::make_unique<TcpEnds>(tcp_pair(), 1, migration::Compression{true}); }}),
    [](const auto& one) { return one.param.name; });

}  // namespace
}  // namespace godwit::testing
