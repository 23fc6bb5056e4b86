#include "migration/rdma_channel.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <future>
#include <optional>

#include "migration/rdma_connect.h"
#include "tests/migration/channel_suite.h"
#include "tests/migration/sockets.h"

namespace godwit::testing {
namespace {

using migration::MessageKind;
using migration::RdmaChannel;
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
  explicit RdmaEnds(unsigned queue_pairs = 1, bool pinned = false)
      : RdmaEnds(tcp_pair(rdma_address()), queue_pairs, pinned) {}
  RdmaEnds(std::pair<sys::UniqueFd, sys::UniqueFd> sockets, unsigned queue_pairs, bool pinned)
      : source_wire(std::move(sockets.first)), destination_wire(std::move(sockets.second)) {
    if (pinned) source_pinned.emplace(source_ram);
    auto offered = migration::offer_endpoints(
        source_wire.fd(), {.queue_pairs = queue_pairs,
                           .open = pinned ? source_pinned->devices() : migration::RdmaDevices()});
    auto answered = migration::answer_endpoints(destination_wire.fd(), addresses_of(offered));
    const auto answer = addresses_of(answered);
    auto to = std::make_unique<RdmaChannel>(destination_wire, destination_ram, Role::kDestination,
                                            std::move(answered));
    if (pinned) to->register_all_of_ram();
    destination = std::move(to);
    source = std::make_unique<RdmaChannel>(
        source_wire, source_ram, Role::kSource,
        migration::connect_endpoints(source_wire, std::move(offered), answer),
        pinned ? &*source_pinned : nullptr);
  }
  std::optional<migration::PinnedMemory> source_pinned;
  Wire source_wire;
  Wire destination_wire;
};

INSTANTIATE_TEST_SUITE_P(
    Transports, ChannelTest,
    ::testing::Values(Transport{"rdma", [] { return std::make_unique<RdmaEnds>(); }},
                      Transport{"rdma_by_three", [] { return std::make_unique<RdmaEnds>(3); }},
                      Transport{"rdma_pinned", [] { return std::make_unique<RdmaEnds>(1, true); },
                                /*.populates =*/true}),
    [](const auto& one) { return one.param.name; });

TEST(RdmaPort, AnAddressWithoutRdmaSaysSo) {
  const auto sockets = tcp_pair("127.0.0.1");
  try {
    migration::rdma_port_of(sockets.first.get());
    FAIL() << "RDMA over the loopback interface";
  } catch (const RdmaError& error) {
    EXPECT_STREQ(error.what(), "no active RDMA port has the address 127.0.0.1");
  }
}

TEST(RdmaPort, ThePortOfAConnectionIsAmongTheActiveOnesAndKnowsItsNetwork) {
  const auto sockets = tcp_pair(rdma_address());
  const migration::RdmaPort port = migration::rdma_port_of(sockets.first.get());
  const auto all = migration::active_rdma_ports({port.device});
  const auto found = std::find(all.begin(), all.end(), port);
  ASSERT_NE(found, all.end());
  EXPECT_EQ(found->device, port.device);
  EXPECT_LT(found->network_bits, 128u);
  EXPECT_TRUE(found->reaches(port.gid, found->network_bits));
  auto other = port.gid;
  other[12] = static_cast<std::uint8_t>(~other[12]);
  EXPECT_FALSE(found->reaches(other, found->network_bits));
  EXPECT_FALSE(found->reaches(port.gid, found->network_bits - 1));
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
