#include "node/control_socket.h"

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "node/control_client.h"
#include "node/http_call.h"

namespace godwit::node {
namespace {

class ControlSocketTest : public testing::Test {
 protected:
  ~ControlSocketTest() override { std::filesystem::remove(path_); }

  std::string complaint() const {
    try {
      const ControlSocket socket(path_, "a guest named web1");
    } catch (const std::runtime_error& error) {
      return error.what();
    }
    return "none";
  }

  std::string path_ = testing::TempDir() + "godwit_socket_" + std::to_string(::getpid()) + ".sock";
};

TEST_F(ControlSocketTest, IsItsOwnersAlone) {
  const ControlSocket socket(path_, "a guest named web1");
  struct stat info {};
  ASSERT_EQ(::stat(path_.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777u, 0600u);
}

TEST_F(ControlSocketTest, RefusesASocketThatIsInUse) {
  const ControlSocket socket(path_, "a guest named web1");
  EXPECT_EQ(complaint(), "a guest named web1 is already running (" + path_ + ")");
  EXPECT_TRUE(socket_is_live(path_)) << "the refused one took the socket away";
}

TEST_F(ControlSocketTest, ReplacesAStaleSocket) {
  {
    ControlSocket socket(path_, "a guest named web1");
    std::filesystem::rename(path_, path_ + ".left");
  }
  std::filesystem::rename(path_ + ".left", path_);
  EXPECT_FALSE(socket_is_live(path_));
  const ControlSocket socket(path_, "a guest named web1");
  EXPECT_TRUE(socket_is_live(path_));
}

TEST_F(ControlSocketTest, LeavesAFileThatIsNoSocketAlone) {
  std::ofstream(path_) << "precious";
  EXPECT_EQ(complaint(), path_ + " exists and is not a socket");
  EXPECT_EQ(std::filesystem::file_size(path_), 8u);
}

TEST_F(ControlSocketTest, IsRemovedWithItsOwner) {
  { const ControlSocket socket(path_, "a guest named web1"); }
  EXPECT_FALSE(std::filesystem::exists(path_));
}

TEST_F(ControlSocketTest, RefusesPathsThatDoNotFit) {
  EXPECT_THROW(ControlSocket("/tmp/" + std::string(120, 'a'), "a guest named web1"),
               std::runtime_error);
  EXPECT_THROW(ControlSocket("/nowhere/at/all.sock", "a guest named web1"), std::runtime_error);
}

TEST(SocketOf, TakesANameOrAPath) {
  EXPECT_EQ(socket_of("/tmp/web1.sock"), "/tmp/web1.sock");
  EXPECT_EQ(socket_of("./web1.sock"), "./web1.sock");
  EXPECT_EQ(socket_of("web1"), runtime_directory() + "/web1.sock");
  EXPECT_THROW(socket_of("web 1"), std::runtime_error);
  EXPECT_THROW(socket_of(""), std::runtime_error);
}

TEST(NameComplaint, KnowsGoodNamesFromBad) {
  for (const auto* good : {"web1", "a", "A.b_c-9", "0"})
    EXPECT_EQ(name_complaint(good), "") << good;
  for (const auto* bad : {"", ".web", "-web", "we b", "../x", "web/1", "w\n", "é"}) {
    EXPECT_NE(name_complaint(bad), "") << bad;
  }
  EXPECT_NE(name_complaint(std::string(65, 'a')), "");
}

TEST(ControlClient, SaysWhichGuestIsMissing) {
  try {
    ControlClient("/tmp/no-such-guest.sock").get("/v1/status");
    FAIL() << "found one";
  } catch (const ClientError& error) {
    EXPECT_STREQ(error.what(),
                 "no guest /tmp/no-such-guest.sock: there is no /tmp/no-such-guest.sock");
  }
}

TEST_F(ControlSocketTest, AGuestThatAcceptsNobodyIsWaitedForNoLongerThanAnyOther) {
  ControlSocket socket(path_, "web1");
  const sys::UniqueFd listener = socket.take_listener();
  ASSERT_EQ(::listen(listener.get(), 0), 0);
  const sys::UniqueFd first =
      connect_unix(path_, Deadline(std::chrono::seconds(5)));  // all it holds
  for (const int timeout_ms : {0, 50}) {
    try {
      connect_unix(path_, Deadline(std::chrono::milliseconds(timeout_ms)));
      FAIL() << "somebody accepted";
    } catch (const ClientError& error) {
      EXPECT_EQ(error.kind(), ClientError::Kind::kTimeout) << error.what();
    }
  }
  EXPECT_TRUE(socket_is_live(path_));
}

}  // namespace
}  // namespace godwit::node
