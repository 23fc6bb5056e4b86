// Post-copy between two memories of this process, without a guest: threads stand for whoever looks
// at memory that is not there yet.
#include <gtest/gtest.h>

#include <chrono>
#include <cstring>
#include <future>
#include <thread>

#include "migration/page_server.h"
#include "migration/postcopy_destination.h"
#include "migration/tcp_channel.h"
#include "tests/migration/sockets.h"

namespace godwit::migration {
namespace {

using memory::GuestMemory;
using memory::kPageSize;
using memory::PageBitmap;
using memory::PageRange;
using namespace std::chrono_literals;

constexpr std::uint64_t kPages = 4096;

class PostCopyTest : public ::testing::Test {
 protected:
  PostCopyTest() {
    for (std::uint64_t page = 0; page < kPages; ++page) {
      if (page % 7 == 3) continue;  // a hole
      const std::uint64_t value = page % 5 == 1 ? 0 : page * 0x9e3779b97f4a7c15 + 1;
      for (std::uint64_t at = 0; at < kPageSize; at += 8) {
        std::memcpy(here_.page_bytes({page, 1}).data() + at, &value, 8);
      }
    }
    for (const PageRange& range : here_.populated({0, kPages})) missing_.set(range);
    // What came by an earlier round, some of it out of date.
    for (std::uint64_t page = 0; page < kPages / 4; ++page) {
      std::memcpy(there_.page_bytes({page, 1}).data(), here_.page_bytes({page, 1}).data(),
                  kPageSize);
      if (page % 2 == 0) {
        missing_.reset({page, 1});
      } else if (missing_.test(page)) {
        std::memset(there_.page_bytes({page, 1}).data(), 0xee, kPageSize);
      }
    }
  }

  /// The destination takes what comes over a new connection; the guest "runs" at once.
  void begin() {
    auto [source, destination] = testing::tcp_pair();
    auto [listener, name] = testing::listen_on();
    where_ = name;
    wire_ = std::make_unique<Wire>(std::move(source));
    post_copy_ =
        std::make_unique<PostCopy>(Wire(std::move(destination)), there_, missing_,
                                   Comeback{std::move(listener), "secret"}, PostCopy::Offer{});
    wire_->send({.kind = MessageKind::kCommit});
    post_copy_->await_commit();
    post_copy_->say(MessageKind::kRunning, encode(Running{}));
    const FrameHeader running = wire_->receive_header(5000);
    ASSERT_EQ(running.kind, MessageKind::kRunning);
    wire_->receive_payload(running);
  }
  /// The source's end, to the last page.
  void serve(std::uint64_t bits_per_second = 0) {
    PageServer server(here_, missing_, bits_per_second);
    EXPECT_EQ(server.serve(*wire_, true, 20'000).kind, MessageKind::kArrived);
    wire_->send({.kind = MessageKind::kArrived});
    asked_ = server.asked();
  }
  /// Looks at every page, from `first` on.
  void look(std::uint64_t first, std::uint64_t step) {
    for (std::uint64_t i = 0; i < kPages / step; ++i) {
      const PageRange page{(first + i * step) % kPages, 1};
      const auto bytes = there_.page_bytes(page);
      if (std::memcmp(bytes.data(), here_.page_bytes(page).data(), kPageSize) != 0) ++wrong_;
    }
  }
  void expect_equal() {
    for (std::uint64_t page = 0; page < kPages; ++page) {
      ASSERT_EQ(std::memcmp(there_.page_bytes({page, 1}).data(), here_.page_bytes({page, 1}).data(),
                            kPageSize),
                0)
          << "page " << page;
    }
  }
  void await_done() {
    for (int i = 0; i < 2000 && !post_copy_->status().done; ++i) std::this_thread::sleep_for(5ms);
    EXPECT_TRUE(post_copy_->status().done);
  }

  GuestMemory here_{kPages * kPageSize};
  GuestMemory there_{kPages * kPageSize};
  PageBitmap missing_{kPages};
  std::unique_ptr<Wire> wire_;
  std::string where_;
  std::unique_ptr<PostCopy> post_copy_;
  std::uint64_t asked_ = 0;
  std::atomic<int> wrong_ = 0;
};

TEST_F(PostCopyTest, WhoLooksAtAPageGetsTheSourcesAndEveryPageArrives) {
  begin();
  auto serving = std::async(std::launch::async, [&] { serve(400'000'000); });
  {
    std::jthread forwards([&] { look(0, 1); });
    std::jthread backwards([&] { look(kPages - 1, kPages - 1); });
    std::jthread jumping([&] { look(kPages / 2, 5); });
  }
  serving.get();
  await_done();
  EXPECT_EQ(wrong_, 0);
  EXPECT_GT(asked_, 0u);
  EXPECT_GT(post_copy_->status().faults, 0u);
  expect_equal();
}

TEST_F(PostCopyTest, WhatIsWrittenThereBeforeItsPageArrivesIsKept) {
  begin();
  auto serving = std::async(std::launch::async, [&] { serve(40'000'000); });
  there_.page_bytes({kPages - 2, 1})[7] = std::byte{0x77};
  serving.get();
  await_done();
  EXPECT_EQ(there_.page_bytes({kPages - 2, 1})[7], std::byte{0x77});
  there_.page_bytes({kPages - 2, 1})[7] = here_.page_bytes({kPages - 2, 1})[7];
  expect_equal();
}

TEST_F(PostCopyTest, AfterALostLinkItGoesOnWithTheSourceThatKnowsTheToken) {
  begin();
  PageServer server(here_, missing_, 0);
  EXPECT_THROW(server.serve(*wire_, true, 2), ChannelError);  // in the middle of it
  wire_.reset();
  while (!post_copy_->status().lost && !post_copy_->status().done) std::this_thread::sleep_for(1ms);
  ASSERT_FALSE(post_copy_->status().done) << "nothing was left: the test proves nothing";
  EXPECT_NE(post_copy_->complaint().find("the link to that is lost"), std::string::npos);
  auto looking = std::async(std::launch::async, [&] { look(0, 1); });
  EXPECT_EQ(looking.wait_for(100ms), std::future_status::timeout) << "nobody can have the pages";

  const auto come_back = [&](const std::string& token) {
    wire_ = std::make_unique<Wire>(Wire::connect(where_, 1s));
    wire_->greet();
    wire_->send_json(MessageKind::kResume, encode(Resume{token, false, {}}));
    return wire_->receive_header(5000);
  };
  EXPECT_EQ(come_back("a guess").kind, MessageKind::kRefuse);
  const FrameHeader accept = come_back("secret");
  ASSERT_EQ(accept.kind, MessageKind::kAccept);
  wire_->receive_payload(accept);
  const FrameHeader header = wire_->receive_header(5000);
  ASSERT_EQ(header.kind, MessageKind::kMissing);
  missing_ = decode_missing(wire_->receive_payload(header), kPages);
  serve();
  looking.get();
  await_done();
  EXPECT_EQ(wrong_, 0);
  expect_equal();
}

TEST_F(PostCopyTest, ThatItRunsIsSaidBeforeThatAllHasArrived) {
  auto [source, destination] = testing::tcp_pair();
  Wire wire(std::move(source));
  PostCopy post_copy(Wire(std::move(destination)), there_, PageBitmap(kPages), {}, {});
  wire.send({.kind = MessageKind::kCommit});
  post_copy.await_commit();
  EXPECT_THROW(wire.receive_header(100), ChannelError) << "nothing is missing, but does it run?";
  post_copy.say(MessageKind::kRunning, encode(Running{}));
  const FrameHeader running = wire.receive_header(5000);
  EXPECT_EQ(running.kind, MessageKind::kRunning);
  wire.receive_payload(running);
  EXPECT_EQ(wire.receive_header(5000).kind, MessageKind::kArrived);
  wire.send({.kind = MessageKind::kArrived});
}

TEST_F(PostCopyTest, APageThatIsNotMissingIsRefused) {
  begin();
  TcpChannel channel(*wire_, here_, Role::kSource);
  const std::array<PageRange, 1> not_missing{PageRange{0, 1}};
  channel.write(not_missing);
  for (int i = 0; i < 2000 && !post_copy_->status().lost; ++i) std::this_thread::sleep_for(1ms);
  EXPECT_EQ(post_copy_->status().reason, "the peer sent a page that was not missing");
}

TEST_F(PostCopyTest, ASourceThatGoesBeforeItCommitsLeavesNobodyWaiting) {
  auto [source, destination] = testing::tcp_pair();
  PostCopy post_copy(Wire(std::move(destination)), there_, missing_, {}, {});
  auto looking = std::async(std::launch::async, [&] { look(0, 1); });
  source = {};
  EXPECT_THROW(post_copy.await_commit(), ChannelError);
  looking.get();
}

}  // namespace
}  // namespace godwit::migration
