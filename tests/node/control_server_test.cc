#include "node/control_server.h"

#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <array>
#include <chrono>
#include <cstring>
#include <thread>

#include "node/control_client.h"
#include "node/control_socket.h"
#include "tests/node/fake_guest.h"

namespace godwit::node {
namespace {

using nlohmann::json;
using Clock = std::chrono::steady_clock;

class ControlServerTest : public testing::Test {
 protected:
  ControlServerTest() { start({}); }

  void start(const ServerLimits& limits) {
    server_.reset();
    socket_.reset();
    socket_ = std::make_unique<ControlSocket>(path_, "web1");
    server_ = std::make_unique<ControlServer>(socket_->take_listener(), guest_api(guest_), limits);
  }

  sys::UniqueFd connect() const {
    sys::UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::strncpy(address.sun_path, path_.c_str(), sizeof address.sun_path - 1);
    EXPECT_EQ(::connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
    return fd;
  }

  static void send(const sys::UniqueFd& fd, std::string_view text) {
    while (!text.empty()) {
      const ssize_t count = ::send(fd.get(), text.data(), text.size(), MSG_NOSIGNAL);
      if (count <= 0) return;  // refused meanwhile
      text.remove_prefix(static_cast<std::size_t>(count));
    }
  }

  /// All that comes until the server closes; fails the test after `limit_ms`.
  static std::string read_all(const sys::UniqueFd& fd, int limit_ms = 5000) {
    std::string all;
    std::array<char, 4096> buffer{};
    for (;;) {
      pollfd poller{fd.get(), POLLIN, 0};
      if (::poll(&poller, 1, limit_ms) <= 0) {
        ADD_FAILURE() << "the server left the connection open";
        return all;
      }
      const ssize_t count = ::read(fd.get(), buffer.data(), buffer.size());
      if (count <= 0) return all;
      all.append(buffer.data(), static_cast<std::size_t>(count));
    }
  }

  double status_ms() const {
    const auto start = Clock::now();
    EXPECT_EQ(ControlClient(path_).get("/v1/status")["name"], "web1");
    return std::chrono::duration<double, std::milli>(Clock::now() - start).count();
  }

  std::string path_ = testing::TempDir() + "godwit_server_" + std::to_string(::getpid()) + ".sock";
  FakeGuest guest_;
  std::unique_ptr<ControlSocket> socket_;
  std::unique_ptr<ControlServer> server_;
};

TEST_F(ControlServerTest, AnswersItsClient) {
  const ControlClient client(path_);
  EXPECT_EQ(client.get("/v1/status")["state"], "running");
  EXPECT_EQ(client.put("/v1/stop", {{"force", true}}), (json{{"ok", true}}));
  EXPECT_EQ(guest_.calls.back(), "stop force");
}

TEST_F(ControlServerTest, PassesOnARefusalInItsWords) {
  guest_.moving = true;
  try {
    ControlClient(path_).put("/v1/pause", json::object());
    FAIL() << "no refusal";
  } catch (const ClientError& error) {
    EXPECT_STREQ(error.what(), "web1 is being moved");
  }
}

TEST_F(ControlServerTest, AnswersOthersWhileAMoveGoesOn) {
  json report;
  std::thread mover([&] { report = ControlClient(path_).post("/v1/migrate", {{"to", "b:7000"}}); });
  GuestControl::MoveDone done;
  while (!done) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
    const std::lock_guard lock(guest_.mutex);
    done = guest_.last_done;
  }
  EXPECT_LT(status_ms(), 1000);
  done({{"status", "completed"}});
  mover.join();
  EXPECT_EQ(report["status"], "completed");
}

TEST_F(ControlServerTest, SendsTheAnswerThatIsDueBeforeItCloses) {
  json report;
  std::thread mover([&] { report = ControlClient(path_).post("/v1/migrate", {{"to", "b:7000"}}); });
  GuestControl::MoveDone done;
  while (!done) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
    const std::lock_guard lock(guest_.mutex);
    done = std::move(guest_.last_done);
  }
  done({{"status", "completed"}});
  done = nullptr;
  server_.reset();
  mover.join();
  EXPECT_EQ(report["status"], "completed");
}

TEST_F(ControlServerTest, KeepsAConnectionForSeveralRequests) {
  const sys::UniqueFd fd = connect();
  send(fd, "GET /v1/status HTTP/1.1\r\nHost: x\r\n\r\n");
  send(fd, "GET /v1/status HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
  const std::string answer = read_all(fd);
  EXPECT_NE(answer.find("200 OK"), std::string::npos);
  EXPECT_NE(answer.rfind("200 OK"), answer.find("200 OK"));
}

TEST_F(ControlServerTest, ClosesOnAClientThatSendsHalfARequest) {
  start({.request_timeout_ms = 100});
  const sys::UniqueFd fd = connect();
  send(fd, "GET /v1/status HT");
  EXPECT_EQ(read_all(fd), "");
}

TEST_F(ControlServerTest, ClosesOnAClientThatDripsBytes) {
  start({.request_timeout_ms = 200});
  const sys::UniqueFd fd = connect();
  const auto start = Clock::now();
  for (int i = 0; i < 100; ++i) {
    if (::send(fd.get(), "G", 1, MSG_NOSIGNAL) < 0) break;
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  read_all(fd);
  EXPECT_LT(Clock::now() - start, std::chrono::seconds(2));
}

TEST_F(ControlServerTest, RefusesHugeHeaders) {
  const sys::UniqueFd fd = connect();
  send(fd, "GET /v1/status HTTP/1.1\r\nX: " + std::string(100'000, 'a') + "\r\n\r\n");
  const std::string answer = read_all(fd);
  // The server may close with our bytes unread, which can cost us its answer.
  EXPECT_TRUE(answer.empty() || answer.find(" 431 ") != std::string::npos) << answer;
  EXPECT_LT(status_ms(), 1000);
}

TEST_F(ControlServerTest, RefusesHugeBodies) {
  const sys::UniqueFd fd = connect();
  send(fd, "PUT /v1/stop HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n");
  EXPECT_NE(read_all(fd).find(" 413 "), std::string::npos);
}

TEST_F(ControlServerTest, RefusesHugeBodiesThatHaveBegun) {
  const sys::UniqueFd fd = connect();
  send(fd, "PUT /v1/stop HTTP/1.1\r\nContent-Length: 99999\r\n\r\nX: {}");
  EXPECT_NE(read_all(fd).find(" 413 "), std::string::npos);
}

TEST_F(ControlServerTest, RefusesChunkedBodiesThatGrow) {
  const sys::UniqueFd fd = connect();
  std::string request = "PUT /v1/stop HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n";
  for (int i = 0; i < 100; ++i) request += "1000\r\n" + std::string(4096, 'x') + "\r\n";
  send(fd, request);
  read_all(fd);
  EXPECT_LT(status_ms(), 1000);
  EXPECT_EQ(guest_.calls, std::vector<std::string>{"status"});
}

TEST_F(ControlServerTest, RefusesWhatIsNoHttp) {
  const sys::UniqueFd fd = connect();
  send(fd, "\x16\x03\x01\x02\r\n\r\nhello\r\n\r\n");
  EXPECT_NE(read_all(fd).find(" 400 "), std::string::npos);
}

TEST_F(ControlServerTest, ServesOthersWhileManyConnectionsSayNothing) {
  std::vector<sys::UniqueFd> silent;
  for (int i = 0; i < 200; ++i) silent.push_back(connect());
  EXPECT_LT(status_ms(), 1000);
}

TEST_F(ControlServerTest, ClosesTheLongestIdleOfTooManyConnections) {
  start({.connections = 4});
  std::vector<sys::UniqueFd> silent;
  for (int i = 0; i < 6; ++i) silent.push_back(connect());
  EXPECT_EQ(read_all(silent[0]), "");
  EXPECT_EQ(read_all(silent[1]), "");
  pollfd last{silent[5].get(), POLLIN, 0};
  EXPECT_EQ(::poll(&last, 1, 100), 0) << "the newest was closed";
}

TEST_F(ControlServerTest, SurvivesAClientThatLeavesBeforeItsAnswer) {
  for (int i = 0; i < 50; ++i) {
    const sys::UniqueFd fd = connect();
    send(fd, "GET /v1/status HTTP/1.1\r\nHost: x\r\n\r\n");
  }
  EXPECT_LT(status_ms(), 1000);
}

TEST_F(ControlServerTest, DoesNotWaitForAClientThatTakesNoAnswer) {
  // Pipelined requests whose answers fill the socket's buffer.
  const sys::UniqueFd fd = connect();
  for (int i = 0; i < 3000; ++i) {
    constexpr std::string_view kRequest = "GET /v1/status HTTP/1.1\r\nHost: x\r\n\r\n";
    if (::send(fd.get(), kRequest.data(), kRequest.size(), MSG_NOSIGNAL | MSG_DONTWAIT) < 0) break;
  }
  EXPECT_LT(status_ms(), 1000);
  const auto start = Clock::now();
  server_.reset();
  EXPECT_LT(Clock::now() - start, std::chrono::seconds(3));
}

}  // namespace
}  // namespace godwit::node
