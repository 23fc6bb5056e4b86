#include "migration/protocol.h"

#include <gtest/gtest.h>

#include <functional>
#include <random>
#include <utility>

namespace godwit::migration {
namespace {

using memory::PageRange;

std::span<const std::byte> bytes(const std::string& text) { return std::as_bytes(std::span(text)); }

Hello hello() {
  Hello hello;
  hello.machine.name = "web1";
  hello.machine.memory_bytes = 256 << 20;
  hello.machine.cpus = 2;
  hello.machine.disks = {{"/srv/web1.img", false, true, "root"}};
  hello.machine.nets = {{"t0", "02:00:00:00:00:07", 9000, "br0"}};
  hello.machine.rng = true;
  hello.machine.balloon = true;
  hello.machine.vsock = {3, "/srv/v.sock"};
  hello.machine.console = true;
  hello.requirements = "{}";
  hello.data_bytes = 4096;
  hello.rdma = {{7, 0xabcdef, 3, 5, true, std::vector<std::uint8_t>(16, 1), 0, 120},
                {8, 1, 3, 5, true, std::vector<std::uint8_t>(16, 2), 1, 64}};
  hello.dry_run = true;
  return hello;
}

TEST(Protocol, AHelloSurvivesTheWire) {
  const Hello got = decode_hello(bytes(encode(hello())));
  EXPECT_EQ(got.machine.name, "web1");
  EXPECT_EQ(got.machine.memory_bytes, 256u << 20);
  EXPECT_EQ(got.machine.disks, hello().machine.disks);
  EXPECT_EQ(got.machine.nets, hello().machine.nets);
  EXPECT_TRUE(got.machine.rng && got.machine.balloon && got.machine.console);
  EXPECT_EQ(got.machine.vsock, hello().machine.vsock);
  ASSERT_EQ(got.rdma.size(), 2u);
  EXPECT_EQ(got.rdma[0].packet_sequence, 0xabcdefu);
  EXPECT_EQ(got.rdma[0].network_bits, 120u);
  EXPECT_EQ(got.rdma[1].gid, hello().rdma[1].gid);
  EXPECT_EQ(got.rdma[1].port, 1u);
  EXPECT_TRUE(got.dry_run);
}

TEST(Protocol, ATruncatedOrMutatedHelloIsAnErrorOrAHello) {
  const std::string good = encode(hello());
  for (std::size_t size = 0; size < good.size(); ++size) {
    EXPECT_THROW(decode_hello(bytes(good.substr(0, size))), ChannelError) << size;
  }
  std::mt19937 random(1);
  for (int i = 0; i < 5000; ++i) {
    std::string bad = good;
    bad[random() % bad.size()] = static_cast<char>(random());
    try {
      decode_hello(bytes(bad));
    } catch (const ChannelError&) {
      // The only exception there may be.
    }
  }
}

TEST(Protocol, StreamsAreOneToSixteenAndMoreThanOneOnlyByTcp) {
  Begin begin{"tcp", 16};
  EXPECT_EQ(decode_begin(bytes(encode(begin))).streams, 16u);
  for (const unsigned bad : {0u, 17u, 0xffffffffu}) {
    begin.streams = bad;
    EXPECT_THROW(decode_begin(bytes(encode(begin))), ChannelError) << bad;
    Hello asked = hello();
    asked.streams = bad;
    EXPECT_THROW(decode_hello(bytes(encode(asked))), ChannelError) << bad;
  }
  EXPECT_THROW(decode_begin(bytes(encode(Begin{"rdma", 2, {0}}))), ChannelError);
  Accept accept;
  accept.streams = 2;
  EXPECT_THROW(decode_accept(bytes(encode(accept))), ChannelError);  // without a token
  accept.join = std::string(kJoinToken, 'a');
  EXPECT_EQ(decode_accept(bytes(encode(accept))).streams, 2u);
}

TEST(Protocol, AnRdmaAddressOutOfRangeIsRefused) {
  for (const auto& spoil : std::vector<std::function<void(RdmaAddress&)>>{
           [](RdmaAddress& a) { a.gid.pop_back(); }, [](RdmaAddress& a) { a.mtu = 0; },
           [](RdmaAddress& a) { a.mtu = 6; }, [](RdmaAddress& a) { a.packet_sequence = 1 << 24; },
           [](RdmaAddress& a) { a.port = kMaxRdmaPorts; },
           [](RdmaAddress& a) { a.network_bits = 129; }}) {
    Hello bad = hello();
    spoil(bad.rdma[1]);
    EXPECT_THROW(decode_hello(bytes(encode(bad))), ChannelError);
  }
}

TEST(Protocol, RdmaAddressesComeByPortTheFirstOfTheConnection) {
  Hello bad = hello();
  std::swap(bad.rdma[0], bad.rdma[1]);
  EXPECT_THROW(decode_hello(bytes(encode(bad))), ChannelError);
  bad.rdma.erase(bad.rdma.begin() + 1);
  EXPECT_THROW(decode_hello(bytes(encode(bad))), ChannelError);  // none of port 0
  bad = hello();
  bad.rdma.assign(kMaxRdmaPorts * kMaxQueuePairs, bad.rdma[0]);
  EXPECT_EQ(decode_hello(bytes(encode(bad))).rdma.size(), bad.rdma.size());
  bad.rdma.push_back(bad.rdma[0]);
  EXPECT_THROW(decode_hello(bytes(encode(bad))), ChannelError);
}

TEST(Protocol, PortsAreNamedWhereItGoesByRdma) {
  EXPECT_EQ(decode_begin(bytes(encode(Begin{"rdma", 1, {0, 2}}))).ports,
            (std::vector<unsigned>{0, 2}));
  for (const Begin& bad : {Begin{"rdma", 1, {}}, Begin{"rdma", 1, {1}}, Begin{"rdma", 1, {0, 0}},
                           Begin{"rdma", 1, {0, kMaxRdmaPorts}}, Begin{"tcp", 1, {0}}}) {
    EXPECT_THROW(decode_begin(bytes(encode(bad))), ChannelError);
  }
}

/// `good` with the value of `"name":` replaced.
std::string with(const std::string& good, const std::string& name, const std::string& value) {
  const std::size_t at = good.find("\"" + name + "\":") + name.size() + 3;
  return good.substr(0, at) + value + good.substr(good.find_first_of(",}", at));
}

TEST(Protocol, NumbersThatDoNotFitTheirFieldAreRefused) {
  const std::string good = encode(hello());
  EXPECT_EQ(decode_hello(bytes(with(good, "cpus", "3"))).machine.cpus, 3u);
  for (const char* name : {"cpus", "memory_bytes", "data_bytes", "qp", "psn", "lid", "mtu"}) {
    for (const char* value : {"-1", "1.5", "1e300", "18446744073709551616", "\"1\"", "null"}) {
      EXPECT_THROW(decode_hello(bytes(with(good, name, value))), ChannelError) << name << value;
    }
  }
  EXPECT_THROW(decode_hello(bytes(with(good, "cpus", "4294967296"))), ChannelError);
  EXPECT_THROW(decode_hello(bytes(with(good, "lid", "65536"))), ChannelError);
  EXPECT_THROW(decode_hello(bytes(with(good, "qp", "16777216"))), ChannelError);
  EXPECT_THROW(decode_hello(bytes(with(good, "gid", "[256"))), ChannelError);
  EXPECT_THROW(decode_running(bytes(R"({"resume_ms":-1,"cpu_ms":0})")), ChannelError);
}

TEST(Protocol, TextsHaveBoundsAndNoNul) {
  for (const auto& spoil : std::vector<std::function<void(Hello&)>>{
           [](Hello& h) { h.machine.name = std::string(65, 'a'); },
           [](Hello& h) { h.machine.kernel = std::string(4097, 'a'); },
           [](Hello& h) { h.machine.command_line = std::string(65537, 'a'); },
           [](Hello& h) { h.machine.disks[0].path = std::string("/a\0b", 4); }}) {
    Hello bad = hello();
    spoil(bad);
    EXPECT_THROW(decode_hello(bytes(encode(bad))), ChannelError);
  }
}

TEST(Protocol, JsonNestedTooDeepIsRefusedAtOnce) {
  const std::string deep(kMaxJson, '[');
  try {
    decode_hello(bytes(deep));
    FAIL();
  } catch (const ChannelError& error) {
    EXPECT_STREQ(error.what(), "the peer's JSON is nested too deep");
  }
}

TEST(Protocol, PageRangesMustLieInsideRamInOrder) {
  const auto decode = [](const std::vector<PageRange>& ranges) {
    return decode_ranges(std::as_bytes(std::span(ranges)), 100, 4);
  };
  EXPECT_EQ(decode({{0, 1}, {99, 1}}).size(), 2u);
  EXPECT_THROW(decode({}), ChannelError);
  EXPECT_THROW(decode({{0, 0}}), ChannelError);
  EXPECT_THROW(decode({{100, 1}}), ChannelError);
  EXPECT_THROW(decode({{99, 2}}), ChannelError);
  EXPECT_THROW(decode({{1, UINT64_MAX}}), ChannelError);
  EXPECT_THROW(decode({{UINT64_MAX, 2}}), ChannelError);
  EXPECT_THROW(decode({{5, 2}, {6, 1}}), ChannelError);
  EXPECT_THROW(decode({{1, 1}, {3, 1}, {5, 1}, {7, 1}, {9, 1}}), ChannelError);
  const std::vector<PageRange> one = {{0, 1}};
  EXPECT_THROW(decode_ranges(std::as_bytes(std::span(one)).first(15), 100, 4), ChannelError);
}

TEST(Protocol, WhatIsMissingMustBeABitmapOfJustTheGuestsRam) {
  memory::PageBitmap missing(100);
  missing.set({3, 5});
  missing.set({99, 1});
  const auto bytes = std::as_bytes(std::as_const(missing).words());
  EXPECT_EQ(decode_missing(bytes, 100).ranges(), missing.ranges());
  EXPECT_THROW(decode_missing(bytes, 99), ChannelError) << "page 99 is outside";
  EXPECT_THROW(decode_missing(bytes, 129), ChannelError);
  EXPECT_THROW(decode_missing(bytes.first(8), 100), ChannelError);
  EXPECT_THROW(decode_missing({}, 100), ChannelError);
}

TEST(Protocol, WhatIsOfferedMustLieInsideRamInOrder) {
  const auto decode = [](std::vector<OfferedExtent> offered) {
    return decode_offer(std::as_bytes(std::span(offered)), 100);
  };
  EXPECT_EQ(decode({{{0, 10}, {1, 2, 0}}, {{10, 90}, {3, 4, 0}}}).size(), 2u);
  EXPECT_EQ(decode({}).size(), 0u);
  EXPECT_THROW(decode({{{0, 0}, {}}}), ChannelError);
  EXPECT_THROW(decode({{{0, 101}, {}}}), ChannelError);
  EXPECT_THROW(decode({{{100, 1}, {}}}), ChannelError);
  EXPECT_THROW(decode({{{1, UINT64_MAX}, {}}}), ChannelError);
  EXPECT_THROW(decode({{{5, 5}, {}}, {{9, 1}, {}}}), ChannelError);
}

TEST(Protocol, AResumeSurvivesTheWireAndItsTokenHasABound) {
  const auto decode = [](const std::string& text) {
    return decode_resume(std::as_bytes(std::span(text)));
  };
  EXPECT_EQ(decode(encode(Resume{"secret", false, {}})).token, "secret");
  EXPECT_THROW(decode(encode(Resume{std::string(65, 'x'), false, {}})), ChannelError);
  EXPECT_THROW(decode("{}"), ChannelError);
}

TEST(Protocol, AReasonFromAPeerCannotPlayWithTheTerminal) {
  EXPECT_EQ(decode_reason(bytes(encode_reason("no\n\033[2Jroom"))), "no  [2Jroom");
}

TEST(Protocol, KindsThatDoNotExistMayHaveNoPayload) {
  EXPECT_EQ(max_payload(static_cast<MessageKind>(0)), 0u);
  EXPECT_EQ(max_payload(static_cast<MessageKind>(4711)), 0u);
}

}  // namespace
}  // namespace godwit::migration
