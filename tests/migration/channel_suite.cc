#include "tests/migration/channel_suite.h"

#include <cstring>
#include <future>
#include <random>
#include <thread>

#include "migration/protocol.h"

namespace godwit::testing {
namespace {

using memory::kPageSize;
using memory::PageRange;
using migration::ChannelError;
using migration::Message;
using migration::MessageKind;

void fill(memory::GuestMemory& memory, PageRange range, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  const auto bytes = memory.page_bytes(range);
  for (std::size_t at = 0; at < bytes.size(); at += 8) {
    const std::uint64_t value = random() | 1;
    std::memcpy(bytes.data() + at, &value, sizeof value);
  }
}

bool same(const memory::GuestMemory& a, const memory::GuestMemory& b, PageRange range) {
  return std::memcmp(a.page_bytes(range).data(), b.page_bytes(range).data(), range.bytes()) == 0;
}

std::vector<std::byte> text(const std::string& from) {
  const auto bytes = std::as_bytes(std::span(from));
  return {bytes.begin(), bytes.end()};
}

/// Receives `count` messages at the destination while the source works.
std::future<std::vector<Message>> receive(ChannelEnds& ends, int count) {
  return std::async(std::launch::async, [&ends, count] {
    std::vector<Message> messages;
    for (int i = 0; i < count; ++i) messages.push_back(ends.destination->receive(20000));
    return messages;
  });
}

TEST_P(ChannelTest, AMessageArrivesAfterEveryPageWrittenBeforeIt) {
  const auto ends = GetParam().connect();
  for (std::uint64_t round = 0; round < 20; ++round) {
    const PageRange range{round * 7, 300};
    fill(ends->source_ram, range, round);
    auto received = receive(*ends, 1);
    ends->source->write({&range, 1});
    ends->source->send(MessageKind::kState, text("round"));
    EXPECT_EQ(received.get().at(0).payload, text("round"));
    ASSERT_TRUE(same(ends->source_ram, ends->destination_ram, range)) << round;
  }
}

TEST_P(ChannelTest, ScatteredRangesLandWhereTheyBelongAndNowhereElse) {
  const auto ends = GetParam().connect();
  std::vector<PageRange> ranges;
  std::mt19937_64 random(1);
  for (std::uint64_t page = 3; page + 70 < kSuitePages; page += 2 + random() % 90) {
    ranges.push_back({page, 1 + random() % 3});
    page = ranges.back().end();
  }
  for (const PageRange& range : ranges) fill(ends->source_ram, range, range.first);
  auto received = receive(*ends, 1);
  ends->source->write(ranges);
  ends->source->send(MessageKind::kState, {});
  received.get();
  EXPECT_TRUE(same(ends->source_ram, ends->destination_ram, {0, kSuitePages}));
}

TEST_P(ChannelTest, AllOfRamInOneWrite) {
  const auto ends = GetParam().connect();
  const PageRange all{0, kSuitePages};
  fill(ends->source_ram, all, 5);
  auto received = receive(*ends, 1);
  ends->source->write({&all, 1});
  ends->source->flush();
  ends->source->send(MessageKind::kState, {});
  received.get();
  EXPECT_TRUE(same(ends->source_ram, ends->destination_ram, all));
  EXPECT_GE(ends->source->bytes_sent(), all.bytes());
}

TEST_P(ChannelTest, APageThatBecameZeroIsZeroAtTheOtherEnd) {
  const auto ends = GetParam().connect();
  const PageRange range{10, 4};
  fill(ends->source_ram, range, 1);
  auto received = receive(*ends, 2);
  ends->source->write({&range, 1});
  ends->source->send(MessageKind::kState, {});
  const PageRange zero{11, 2};
  std::memset(ends->source_ram.page_bytes(zero).data(), 0, zero.bytes());
  ends->source->write_zero({&zero, 1});
  ends->source->send(MessageKind::kState, {});
  received.get();
  EXPECT_TRUE(same(ends->source_ram, ends->destination_ram, range));
}

TEST_P(ChannelTest, MessagesTravelBothWays) {
  const auto ends = GetParam().connect();
  auto answer = std::async(std::launch::async, [&] {
    const Message question = ends->destination->receive(20000);
    ends->destination->send(MessageKind::kReady, {});
    return question;
  });
  const auto large = std::vector<std::byte>(3 << 20, std::byte{7});
  ends->source->send(MessageKind::kState, large);
  EXPECT_EQ(ends->source->receive(20000).kind, MessageKind::kReady);
  EXPECT_EQ(answer.get().payload, large);
}

TEST_P(ChannelTest, AReceiverThatIsInterruptedThrows) {
  const auto ends = GetParam().connect();
  auto waiting = std::async(std::launch::async, [&] { ends->destination->receive(-1); });
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  ends->destination->interrupt();
  EXPECT_THROW(waiting.get(), ChannelError);
}

TEST_P(ChannelTest, AnAnswerThatDoesNotComeIsATimeOut) {
  const auto ends = GetParam().connect();
  EXPECT_THROW(ends->destination->receive(50), ChannelError);
}

TEST_P(ChannelTest, PagesNeverTouchedAtTheSourceAreNotPopulatedAtTheDestination) {
  const auto ends = GetParam().connect();
  const std::vector<PageRange> ranges = {{0, 10}, {8000, 10}, {16000, 10}};
  for (const PageRange& range : ranges) fill(ends->source_ram, range, 1);
  auto received = receive(*ends, 1);
  ends->source->write(ranges);
  ends->source->send(MessageKind::kState, {});
  received.get();
  std::uint64_t populated = 0;
  for (const PageRange& range : ends->destination_ram.populated({0, kSuitePages}))
    populated += range.count;
  EXPECT_EQ(populated, GetParam().populates ? kSuitePages : 30u);
}

}  // namespace
}  // namespace godwit::testing
