// Peers that lie, at the level of bytes: each must end as one ChannelError, with nothing written
// outside what the peer was allowed to write.
#include <gtest/gtest.h>
#include <sys/socket.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <future>
#include <random>
#include <thread>

#include "migration/destination.h"
#include "migration/tcp_channel.h"
#include "tests/migration/sockets.h"

namespace godwit::migration {
namespace {

using memory::GuestMemory;
using memory::kPageSize;
using memory::PageRange;

constexpr std::uint64_t kPages = 512;

void send_raw(const sys::UniqueFd& socket, const void* bytes, std::size_t size) {
  ASSERT_EQ(::send(socket.get(), bytes, size, MSG_NOSIGNAL), static_cast<ssize_t>(size));
}

/// What the destination's channel says to these raw bytes, followed by the end of the stream.
std::string answer_to(const std::string& bytes) {
  auto [peer, ours] = testing::tcp_pair();
  GuestMemory memory(kPages * kPageSize);
  Wire wire(std::move(ours));
  TcpChannel channel(wire, memory, Role::kDestination);
  EXPECT_EQ(::send(peer.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL),
            static_cast<ssize_t>(bytes.size()));
  peer.reset();
  try {
    for (;;) channel.receive(5000);
  } catch (const ChannelError& error) {
    return error.what();
  }
}

std::string frame(MessageKind kind, std::uint64_t length, const std::string& payload = {}) {
  const FrameHeader header{.kind = kind, .length = length};
  return std::string(reinterpret_cast<const char*>(&header), sizeof header) + payload;
}

std::string pages_payload(std::uint64_t count, const std::vector<PageRange>& ranges,
                          std::size_t data_bytes) {
  std::string payload(reinterpret_cast<const char*>(&count), sizeof count);
  payload.append(reinterpret_cast<const char*>(ranges.data()), ranges.size() * sizeof(PageRange));
  return payload + std::string(data_bytes, 'x');
}

std::string answer_to_pages(const std::string& payload) {
  return answer_to(frame(MessageKind::kPages, payload.size(), payload));
}

TEST(HostilePeer, BytesThatAreNoFrame) {
  EXPECT_EQ(answer_to(std::string(100, 'z')), "the peer broke the framing of the protocol");
}

TEST(HostilePeer, PayloadsThatAreTooLong) {
  EXPECT_EQ(answer_to(frame(MessageKind::kHello, UINT64_MAX)),
            "the peer sent a Hello of 18446744073709551615 bytes: too long");
  EXPECT_EQ(answer_to(frame(MessageKind::kCommit, 1, "x")),
            "the peer sent a Commit of 1 bytes: too long");
  EXPECT_NE(answer_to(frame(static_cast<MessageKind>(99), 5, "xxxxx")).find("too long"),
            std::string::npos);
}

TEST(HostilePeer, ListsOfPagesThatLie) {
  const std::vector<PageRange> outside = {{kPages, 1}};
  EXPECT_EQ(answer_to_pages(pages_payload(1, outside, kPageSize)),
            "the peer named pages outside the guest's RAM");
  const std::vector<PageRange> good = {{0, 1}};
  EXPECT_EQ(answer_to_pages(pages_payload(1, good, kPageSize - 1)),
            "the peer sent more or fewer bytes than its list of pages says");
  EXPECT_EQ(answer_to_pages(pages_payload(1, good, 2 * kPageSize)),
            "the peer sent more or fewer bytes than its list of pages says");
  EXPECT_EQ(answer_to_pages(pages_payload(0, {}, 0)),
            "the peer sent a list of pages of an impossible length");
  EXPECT_EQ(answer_to_pages(pages_payload(UINT64_MAX / 16, good, 16)),
            "the peer sent a list of pages of an impossible length");
  EXPECT_EQ(answer_to_pages("abc"), "the peer sent a truncated list of pages");
}

TEST(HostilePeer, AStreamThatEndsHalfway) {
  const std::vector<PageRange> good = {{0, 1}};
  const std::string whole =
      frame(MessageKind::kPages, 8 + 16 + kPageSize, pages_payload(1, good, kPageSize));
  for (const std::size_t size : {1ul, 23ul, 24ul, 30ul, 40ul, 100ul, whole.size() - 1}) {
    EXPECT_EQ(answer_to(whole.substr(0, size)), "the peer closed the connection") << size;
  }
  // So many pages that they are spliced.
  const std::vector<PageRange> many = {{1, kPages - 1}};
  const std::string long_one =
      frame(MessageKind::kPages, 8 + 16 + many[0].bytes(), pages_payload(1, many, many[0].bytes()));
  for (const std::size_t size : {48ul, 60ul, 5000ul, 40'000ul, long_one.size() - 1}) {
    EXPECT_EQ(answer_to(long_one.substr(0, size)), "the peer closed the connection") << size;
  }
}

// The destination is not woken for a few bytes of many (SO_RCVLOWAT), but for the last of them, for
// what comes after them, and for the end.
TEST(HostilePeer, OneThatSendsInDribbles) {
  auto [peer, ours] = testing::tcp_pair();
  GuestMemory memory(kPages * kPageSize);
  Wire wire(std::move(ours));
  TcpChannel channel(wire, memory, Role::kDestination);
  const std::vector<PageRange> many = {{1, kPages - 1}};
  const std::string payload = pages_payload(1, many, many[0].bytes());
  const std::string pages = frame(MessageKind::kPages, payload.size(), payload);
  constexpr std::size_t kDribble = 30'000;
  std::promise<void> heard;
  auto dribbling = std::async(std::launch::async, [&] {
    for (std::size_t at = 0; at < pages.size(); at += kDribble) {
      send_raw(peer, pages.data() + at, std::min(kDribble, pages.size() - at));
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    const std::string abort = frame(MessageKind::kAbort, 0);
    for (const char& byte : abort) {
      send_raw(peer, &byte, 1);
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    EXPECT_EQ(heard.get_future().wait_for(std::chrono::seconds(5)), std::future_status::ready);
    send_raw(peer, pages.data(), pages.size() / 2);
    ::shutdown(peer.get(), SHUT_WR);
  });
  EXPECT_EQ(channel.receive(10'000).kind, MessageKind::kAbort);
  heard.set_value();
  EXPECT_EQ(memory.page_bytes({0, 1})[0], std::byte{0});
  EXPECT_EQ(memory.page_bytes({1, 1})[0], std::byte{'x'});
  EXPECT_EQ(memory.page_bytes({kPages - 1, 1})[kPageSize - 1], std::byte{'x'});
  EXPECT_THROW(channel.receive(10'000), ChannelError);
  dribbling.get();
}

TEST(HostilePeer, RandomFramesEndInAnError) {
  std::mt19937 random(7);
  for (int i = 0; i < 300; ++i) {
    std::string payload(random() % 200, '\0');
    for (char& c : payload) c = static_cast<char>(random());
    EXPECT_FALSE(
        answer_to(frame(static_cast<MessageKind>(random() % 16), payload.size(), payload)).empty());
  }
}

TEST(HostilePeer, ADestinationMayNotSendPages) {
  auto [peer, ours] = testing::tcp_pair();
  GuestMemory memory(kPages * kPageSize);
  Wire wire(std::move(ours));
  TcpChannel channel(wire, memory, Role::kSource);
  const std::vector<PageRange> ranges = {{0, 1}};
  const std::string payload = pages_payload(1, ranges, kPageSize);
  const std::string bytes = frame(MessageKind::kPages, payload.size(), payload);
  send_raw(peer, bytes.data(), bytes.size());
  EXPECT_THROW(channel.receive(5000), ChannelError);
  EXPECT_EQ(memory.page_bytes({0, 1})[0], std::byte{0});
}

/// A source that sends pages to `peer`, which a test plays, until it fails; and what it said then.
std::string source_says(const sys::UniqueFd& peer, sys::UniqueFd ours) {
  auto draining = std::async(std::launch::async, [&] {
    std::vector<char> sink(1 << 16);
    while (::recv(peer.get(), sink.data(), sink.size(), 0) > 0) {
    }
  });
  GuestMemory memory(kPages * kPageSize);
  std::string why;
  {
    Wire wire(std::move(ours));
    TcpChannel channel(wire, memory, Role::kSource);
    const PageRange all{0, kPages};
    try {
      for (;;) channel.write({&all, 1});
    } catch (const ChannelError& error) {
      why = error.what();
    }
  }
  draining.get();
  return why;
}

TEST(HostilePeer, ADestinationThatGivesUpIsHeardWhileItGetsPages) {
  auto [peer, ours] = testing::tcp_pair();
  const std::string why = encode_reason("no room");
  const std::string bytes = frame(MessageKind::kRefuse, why.size(), why);
  send_raw(peer, bytes.data(), bytes.size());
  EXPECT_EQ(source_says(peer, std::move(ours)), "the destination refused: no room");
}

// As of a long move: the source has nothing to receive, but the Pings must not pile up.
TEST(HostilePeer, PingsWithoutEndDoNotStopTheirSender) {
  auto [peer, ours] = testing::tcp_pair();
  const int small = 32768;
  ::setsockopt(peer.get(), SOL_SOCKET, SO_SNDBUF, &small, sizeof small);
  timeval patience{15, 0};
  ::setsockopt(peer.get(), SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
  auto pinging = std::async(std::launch::async, [&] {
    std::string bytes;
    for (int i = 0; i < 1000; ++i) bytes += frame(MessageKind::kPing, 0);
    for (int i = 0; i < 40; ++i) send_raw(peer, bytes.data(), bytes.size());
    const std::string why = encode_reason("enough");
    bytes = frame(MessageKind::kRefuse, why.size(), why);
    send_raw(peer, bytes.data(), bytes.size());
    ::shutdown(peer.get(), SHUT_WR);
  });
  EXPECT_EQ(source_says(peer, std::move(ours)), "the destination refused: enough");
  pinging.get();
}

/// What a destination throws to a peer that opens with these bytes, and then ends.
std::string destination_says(const std::string& bytes) {
  auto [peer, ours] = testing::tcp_pair();
  Destination destination(std::move(ours), {});
  EXPECT_EQ(::send(peer.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL),
            static_cast<ssize_t>(bytes.size()));
  ::shutdown(peer.get(), SHUT_WR);
  try {
    destination.run();
  } catch (const std::exception& error) {
    return error.what();
  }
  return "a guest";
}

TEST(HostilePeer, OneThatIsNotGodwit) {
  EXPECT_EQ(destination_says("GET / HTTP/1.1\r\nHost: x\r\n\r\n"),
            "the peer is not Godwit: what it sent is not Godwit's protocol");
}

TEST(HostilePeer, OneOfAnotherVersion) {
  Preamble other;
  other.version = 4711;
  EXPECT_EQ(destination_says(std::string(reinterpret_cast<const char*>(&other), sizeof other)),
            "the peer speaks version 4711 of the protocol, this is version " +
                std::to_string(kProtocolVersion) + ": run the same Godwit on both hosts");
}

TEST(HostilePeer, OneThatCommitsBeforeItSaysHello) {
  const Preamble preamble;
  const std::string greeting(reinterpret_cast<const char*>(&preamble), sizeof preamble);
  EXPECT_EQ(destination_says(greeting + frame(MessageKind::kCommit, 0)),
            "the peer sent Commit, Hello was due");
}

}  // namespace
}  // namespace godwit::migration
