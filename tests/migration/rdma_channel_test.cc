#include "migration/rdma_channel.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <cstring>
#include <future>

#include "tests/migration/channel_suite.h"
#include "tests/migration/sockets.h"

namespace godwit::testing {
namespace {

using migration::MessageKind;
using migration::PeerMay;
using migration::RdmaChannel;
using migration::RdmaEndpoint;
using migration::RdmaError;
using migration::Role;
using migration::Wire;

/// The address of an RDMA interface; these tests have no other way to be (see ci/runner).
std::string rdma_address() {
  const char* address = std::getenv("GODWIT_RDMA_ADDRESS");
  if (address == nullptr)
    throw std::runtime_error("GODWIT_RDMA_ADDRESS is not set: run this by ci/runner");
  return address;
}

struct RdmaEnds : ChannelEnds {
  RdmaEnds() : RdmaEnds(tcp_pair(rdma_address())) {}
  explicit RdmaEnds(std::pair<sys::UniqueFd, sys::UniqueFd> sockets)
      : source_wire(std::move(sockets.first)), destination_wire(std::move(sockets.second)) {
    auto from = std::make_unique<RdmaEndpoint>(source_wire.fd(), PeerMay::kNothing);
    auto to = std::make_unique<RdmaEndpoint>(destination_wire.fd(), PeerMay::kWrite);
    from->connect(to->address());
    to->connect(from->address());
    auto channel =
        std::make_unique<RdmaChannel>(source_wire, source_ram, Role::kSource, std::move(from));
    channel->probe();
    source = std::move(channel);
    destination = std::make_unique<RdmaChannel>(destination_wire, destination_ram,
                                                Role::kDestination, std::move(to));
  }
  Wire source_wire;
  Wire destination_wire;
};

INSTANTIATE_TEST_SUITE_P(Transports, ChannelTest,
                         ::testing::Values(Transport{"rdma",
                                                     [] { return std::make_unique<RdmaEnds>(); }}),
                         [](const auto& one) { return one.param.name; });

TEST(RdmaEndpoint, AnAddressWithoutRdmaSaysSo) {
  const auto sockets = tcp_pair("127.0.0.1");
  try {
    RdmaEndpoint endpoint(sockets.first.get(), PeerMay::kNothing);
    FAIL() << "RDMA over the loopback interface";
  } catch (const RdmaError& error) {
    EXPECT_STREQ(error.what(), "no active RDMA port has the address 127.0.0.1");
  }
}

/// Of the source, which has written ones there.
void expect_no_write_lands(RdmaEnds& ends, const memory::PageRange& range) {
  std::memset(ends.source_ram.page_bytes(range).data(), 2, range.bytes());
  EXPECT_THROW(
      {
        ends.source->write({&range, 1});
        ends.source->flush();
      },
      migration::ChannelError);
  for (const std::byte byte : ends.destination_ram.page_bytes(range)) ASSERT_EQ(byte, std::byte{1});
}

TEST(RdmaChannel, ALateWriteDoesNotLandOnceTheDestinationIsSealed) {
  RdmaEnds ends;
  const memory::PageRange range{0, 4};
  std::memset(ends.source_ram.page_bytes(range).data(), 1, range.bytes());
  auto received = std::async(std::launch::async, [&] { return ends.destination->receive(20000); });
  ends.source->write({&range, 1});
  ends.source->send(migration::MessageKind::kState, {});
  received.get();
  ends.destination->seal();
  expect_no_write_lands(ends, range);
}

TEST(RdmaChannel, ALateWriteDoesNotLandWhileTheDestinationReadsInPostCopy) {
  RdmaEnds ends;
  const memory::PageRange range{0, 4};
  std::memset(ends.source_ram.page_bytes(range).data(), 1, range.bytes());
  auto received = std::async(std::launch::async, [&] { return ends.destination->receive(20000); });
  ends.source->write({&range, 1});
  ends.source->send(migration::MessageKind::kState, {});
  received.get();
  const auto connection = dynamic_cast<RdmaChannel&>(*ends.destination).take_endpoint();
  expect_no_write_lands(ends, range);
}

// What a source does whose queue pair has failed: its messages came, its pages never will.
TEST(RdmaChannel, ASourceThatBeginsAnewIsHeardWhileItsPagesAreWaitedFor) {
  RdmaEnds ends;
  auto received = std::async(std::launch::async, [&] { return ends.destination->receive(20000); });
  ends.source_wire.send({.kind = MessageKind::kVerify, .marker = 7});
  ends.source_wire.send({.kind = MessageKind::kState, .marker = 7});
  ends.source_wire.send_json(MessageKind::kBegin, "anew");
  const migration::Message message = received.get();
  EXPECT_EQ(message.kind, MessageKind::kBegin);
  EXPECT_EQ(message.payload.size(), 4u);
}

TEST(RdmaChannel, MessagesWithoutEndAheadOfTheirPagesAreRefused) {
  RdmaEnds ends;
  auto received = std::async(std::launch::async, [&] { return ends.destination->receive(20000); });
  for (int i = 0; i < 10; ++i) ends.source_wire.send({.kind = MessageKind::kState, .marker = 7});
  EXPECT_THROW(received.get(), migration::ChannelError);
}

TEST(RdmaChannel, AFailedWriteIsALostTransportAtOnceNotASilence) {
  RdmaEnds ends;
  const memory::PageRange range{0, 4};
  std::memset(ends.source_ram.page_bytes(range).data(), 1, range.bytes());
  auto received = std::async(std::launch::async, [&] { return ends.destination->receive(20000); });
  ends.source->write({&range, 1});
  ends.source->flush();
  dynamic_cast<RdmaChannel&>(*ends.destination).seal();  // its queue pair goes
  ends.source->write({&range, 1});
  ends.source->send(MessageKind::kState, {});
  EXPECT_THROW(ends.source->receive(20000), migration::TransportLost);
  ends.destination->interrupt();
  EXPECT_THROW(received.get(), migration::ChannelError);
}

TEST(RdmaChannel, ADestinationWithoutMemoryRegionsIsALostTransport) {
  RdmaEnds ends;
  const memory::PageRange range{0, 4};
  std::memset(ends.source_ram.page_bytes(range).data(), 1, range.bytes());
  auto peer = std::async(std::launch::async, [&] {
    ends.destination_wire.receive_payload(ends.destination_wire.receive_header(20000));
    ends.destination_wire.send({.kind = MessageKind::kRegistered});
  });
  EXPECT_THROW(
      {
        ends.source->write({&range, 1});
        ends.source->flush();
      },
      migration::TransportLost);
  peer.get();
}

}  // namespace
}  // namespace godwit::testing
