#include "migration/page_streams.h"

#include <gtest/gtest.h>
#include <sys/socket.h>

#include <algorithm>
#include <cstring>
#include <future>
#include <random>

#include "migration/tcp_channel.h"
#include "tests/migration/sockets.h"

namespace godwit::migration {
namespace {

using memory::GuestMemory;
using memory::kPageSize;
using memory::PageRange;

constexpr std::uint64_t kPages = 8192;  // 32 MiB

TEST(PageStreams, SpreadRangesAreAllThereOnceEachByItsOwnStreamAndAscending) {
  std::mt19937_64 random(3);
  std::vector<PageRange> ranges;
  std::vector<int> due(kPages, 0);
  for (std::uint64_t page = 0; page < kPages;) {
    const PageRange range{page, std::min(1 + random() % 1500, kPages - page)};
    ranges.push_back(range);
    for (std::uint64_t p = range.first; p < range.end(); ++p) due[p] = 1;
    page = range.end() + random() % 40;
  }
  for (const std::size_t streams : {1u, 2u, 3u, 16u}) {
    std::vector<int> seen(kPages, 0);
    const auto parts = spread(ranges, streams);
    ASSERT_EQ(parts.size(), streams);
    for (std::size_t i = 0; i < streams; ++i) {
      std::uint64_t end = 0;
      for (const PageRange& range : parts[i]) {
        EXPECT_GE(range.first, end);
        end = range.end();
        for (std::uint64_t p = range.first; p < end; ++p) {
          ++seen[p];
          EXPECT_EQ(stream_of(p, streams), i);
        }
      }
    }
    EXPECT_EQ(seen, due) << streams;
    EXPECT_TRUE(std::all_of(parts.begin(), parts.end(), [](const auto& p) { return !p.empty(); }));
  }
}

/// Both ends of a move by two streams; the test has one of the second's.
struct Ends {
  explicit Ends(bool play_source) {
    auto [from, to] = testing::tcp_pair();
    auto [second_from, second_to] = testing::tcp_pair();
    source_wire.emplace(std::move(from));
    destination_wire.emplace(std::move(to));
    std::vector<Wire> out;
    std::vector<Wire> in;
    second = second_to.get();
    in.emplace_back(std::move(second_to));
    if (play_source) {
      mine = std::move(second_from);
    } else {
      out.emplace_back(std::move(second_from));
    }
    source = std::make_unique<TcpChannel>(*source_wire, source_ram, Role::kSource, std::move(out));
    destination = std::make_unique<TcpChannel>(*destination_wire, destination_ram,
                                               Role::kDestination, std::move(in));
  }
  void say(const FrameHeader& header, const std::string& payload = {}) const {
    const std::string bytes =
        std::string(reinterpret_cast<const char*>(&header), sizeof header) + payload;
    ASSERT_EQ(::send(mine.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL),
              static_cast<ssize_t>(bytes.size()));
  }

  GuestMemory source_ram{kPages * kPageSize};
  GuestMemory destination_ram{kPages * kPageSize};
  sys::UniqueFd mine;
  int second = -1;  // the destination's end of the second
  std::optional<Wire> source_wire;
  std::optional<Wire> destination_wire;
  std::unique_ptr<TcpChannel> source;
  std::unique_ptr<TcpChannel> destination;
};

std::string why_not(const std::function<void()>& work) {
  try {
    work();
  } catch (const ChannelError& error) {
    return error.what();
  }
  return "";
}

std::string page_frame(PageRange range) {
  const std::uint64_t count = 1;
  std::string payload(reinterpret_cast<const char*>(&count), sizeof count);
  payload.append(reinterpret_cast<const char*>(&range), sizeof range);
  return payload + std::string(range.count * kPageSize, 'x');
}

// A message that names a mark is not handed over before the stream's pages have landed.
TEST(PageStreams, AMessageWaitsForThePagesOfTheSlowestStream) {
  Ends ends(true);
  ends.source_wire->send({.kind = MessageKind::kState, .marker = 2});
  auto received =
      std::async(std::launch::async, [&] { return ends.destination->receive(10000).kind; });
  ends.say({.kind = MessageKind::kMark, .marker = 1});
  EXPECT_EQ(received.wait_for(std::chrono::milliseconds(100)), std::future_status::timeout);
  const std::string payload = page_frame({512, 3});
  ends.say({.kind = MessageKind::kPages, .length = payload.size()}, payload);
  ends.say({.kind = MessageKind::kMark, .marker = 2});
  EXPECT_EQ(received.get(), MessageKind::kState);
  EXPECT_EQ(ends.destination_ram.page_bytes({514, 1})[kPageSize - 1], std::byte{'x'});
}

TEST(PageStreams, OneThatIsCutEndsTheMoveAtBothEnds) {
  Ends ends(false);
  const PageRange all{0, kPages};
  auto taking = std::async(std::launch::async, [&] {
    const std::string why = why_not([&] { ends.destination->receive(10000); });
    ends.destination.reset();
    ends.destination_wire.reset();  // as a destination does that gives up
    return why;
  });
  auto giving = std::async(std::launch::async, [&] {
    return why_not([&] {
      for (;;) ends.source->write({&all, 1});
    });
  });
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  ::shutdown(ends.second, SHUT_RDWR);  // what a router does that forgets one of two connections
  EXPECT_EQ(taking.get(), "a stream of pages: the peer closed the connection");
  EXPECT_NE(giving.get().find("the peer closed the connection"), std::string::npos);
}

TEST(PageStreams, WhatMayNotComeByOneEndsTheMove) {
  for (const auto& [header, payload, why] :
       std::vector<std::tuple<FrameHeader, std::string, std::string>>{
           {{.kind = MessageKind::kCommit}, "", "the peer sent Commit where only pages may come"},
           {{.magic = 1}, "", "the peer broke the framing of the protocol"},
           {{.kind = MessageKind::kMark, .length = 1},
            "x",
            "the peer sent a Mark of 1 bytes: too long"},
           {{.kind = MessageKind::kPages, .length = 24 + kPageSize},
            page_frame({kPages, 1}),
            "the peer named pages outside the guest's RAM"}}) {
    Ends ends(true);
    ends.say(header, payload);
    EXPECT_EQ(why_not([&] { ends.destination->receive(10000); }), "a stream of pages: " + why);
  }
}

TEST(PageStreams, NothingLandsOnceTheChannelIsSealed) {
  Ends ends(true);
  ends.say({.kind = MessageKind::kMark, .marker = 1});
  ends.source_wire->send({.kind = MessageKind::kState, .marker = 1});
  EXPECT_EQ(ends.destination->receive(10000).kind, MessageKind::kState);
  ends.destination->seal();
  const std::string payload = page_frame({512, 1});
  const std::string bytes(payload);
  const FrameHeader header{.kind = MessageKind::kPages, .length = payload.size()};
  (void)::send(ends.mine.get(), &header, sizeof header, MSG_NOSIGNAL);
  (void)::send(ends.mine.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
  ends.source_wire->send({.kind = MessageKind::kPages, .length = payload.size()},
                         std::as_bytes(std::span(payload)));
  EXPECT_EQ(why_not([&] { ends.destination->receive(10000); }),
            "the peer sent pages after the state");
  EXPECT_EQ(ends.destination_ram.populated_bytes(), 0u);
}

}  // namespace
}  // namespace godwit::migration
