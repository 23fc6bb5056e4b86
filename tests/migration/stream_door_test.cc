#include "migration/stream_door.h"

#include <gtest/gtest.h>

#include <future>
#include <vector>

#include "tests/migration/sockets.h"

namespace godwit::migration {
namespace {

using namespace std::chrono_literals;

const std::string kToken = "0123456789abcdef0123456789abcdef";

class StreamDoorTest : public ::testing::Test {
 protected:
  StreamDoorTest() {
    auto [listener, name] = testing::listen_on();
    listener_ = std::move(listener);
    name_ = name;
    auto [from, to] = testing::tcp_pair();
    source_.emplace(std::move(from));
    destination_.emplace(std::move(to));
  }

  /// The destination's part: how many streams it takes, or why it takes none.
  std::future<std::string> take(std::size_t granted, std::size_t count) {
    door_.emplace(listener_.get(), kToken, granted, nullptr);
    return std::async(std::launch::async, [this, count]() -> std::string {
      try {
        door_->await_frame(*destination_, 5000);
        destination_->receive_header(5000);
        streams_ = door_->take(*destination_, count);
        return std::to_string(streams_.size());
      } catch (const ChannelError& error) {
        return error.what();
      }
    });
  }
  void begin() { source_->send({.kind = MessageKind::kReady}); }

  sys::UniqueFd listener_;
  std::string name_;
  std::optional<Wire> source_;
  std::optional<Wire> destination_;
  std::optional<StreamDoor> door_;
  std::vector<Wire> streams_;
};

TEST_F(StreamDoorTest, StreamsThatShowTheTokenAreTaken) {
  auto taken = take(15, 15);
  const auto mine = join_streams(name_, kToken, 15, {});
  EXPECT_EQ(mine.size(), 15u);
  begin();
  EXPECT_EQ(taken.get(), "15");
}

TEST_F(StreamDoorTest, AStrangerIsNoneAndHoldsUpNobody) {
  auto taken = take(2, 2);
  std::vector<sys::UniqueFd> strangers;
  const auto stranger = [&](const std::string& says) {
    strangers.push_back(testing::connect_to(listener_));
    (void)::send(strangers.back().get(), says.data(), says.size(), MSG_NOSIGNAL);
  };
  for (int i = 0; i < 5; ++i) stranger("");
  stranger(std::string(200, 'G'));
  auto wrong = join_streams(name_, std::string(kJoinToken, 'f'), 3, {});
  const auto mine = join_streams(name_, kToken, 2, {});
  EXPECT_EQ(mine.size(), 2u);
  begin();
  ASSERT_EQ(taken.get(), "2");
  // The two are those that we have.
  for (const Wire& stream : streams_) {
    sockaddr_in peer{};
    socklen_t size = sizeof peer;
    ::getpeername(stream.fd(), reinterpret_cast<sockaddr*>(&peer), &size);
    bool found = false;
    for (const Wire& one : mine) {
      sockaddr_in own{};
      ::getsockname(one.fd(), reinterpret_cast<sockaddr*>(&own), &size);
      found |= own.sin_port == peer.sin_port;
    }
    EXPECT_TRUE(found);
  }
}

TEST_F(StreamDoorTest, MoreThanWereGrantedAreDropped) {
  auto taken = take(1, 1);
  auto mine = join_streams(name_, kToken, 3, {});
  begin();
  EXPECT_EQ(taken.get(), "1");
}

TEST_F(StreamDoorTest, StreamsThatWereAnnouncedAndDoNotComeAreAnError) {
  auto taken = take(3, 3);
  const auto mine = join_streams(name_, kToken, 1, {});
  begin();
  EXPECT_EQ(taken.get(), "only 1 of the peer's 3 further streams came");
}

TEST_F(StreamDoorTest, ASourceThatGoesAwayIsNoticed) {
  auto taken = take(1, 1);
  source_.reset();
  EXPECT_EQ(taken.get(), "the peer closed the connection");
}

TEST_F(StreamDoorTest, WhereNobodyTakesThemTheSourceGoesOnWithFewer) {
  listener_.reset();
  EXPECT_EQ(join_streams(name_, kToken, 2, {}).size(), 0u);
}

}  // namespace
}  // namespace godwit::migration
