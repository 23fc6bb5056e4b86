// `godwit top` on a terminal and off it, against a node that is no more than its API.
#include <gtest/gtest.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <csignal>
#include <memory>

#include "node/control_server.h"
#include "node/control_socket.h"
#include "tests/node/daemon/sample_node.h"
#include "tests/node/process.h"

namespace godwit::node {
namespace {

class TopCommand : public testing::Test {
 protected:
  TopCommand() { serve(); }
  void serve() {
    socket_ = std::make_unique<ControlSocket>(path_, "node");
    server_ = std::make_unique<ControlServer>(
        socket_->take_listener(), [this](const ApiRequest& request, const ApiReply& reply) {
          ++asked_;
          nlohmann::json node = sample_node();
          node["uptime_s"] = asked_.load();
          reply(request.target == "/v1/node" ? ApiResponse{200, node.dump()}
                                             : ApiResponse{404, R"({"error": "no"})"});
        });
  }
  void vanish() {
    server_.reset();
    socket_.reset();
  }
  static void resize(const Process& process, unsigned short columns, unsigned short rows) {
    winsize size{};
    size.ws_col = columns;
    size.ws_row = rows;
    ::ioctl(process.terminal(), TIOCSWINSZ, &size);
  }

  std::string path_ = testing::TempDir() + "godwit_top_" + std::to_string(::getpid());
  std::atomic<unsigned> asked_ = 0;
  std::unique_ptr<ControlSocket> socket_;
  std::unique_ptr<ControlServer> server_;
};

constexpr const char* kEnter = "\033[?1049h\033[?25l";
constexpr const char* kLeave = "\033[?25h\033[?1049l";

TEST_F(TopCommand, PrintsOnePlainFrameWithoutATerminal) {
  Process top({"top", "--node", path_});
  EXPECT_TRUE(top.printed("LAST DECISIONS")) << top.err();
  EXPECT_EQ(top.wait(), 0) << top.err();
  EXPECT_EQ(top.out().find('\033'), std::string::npos);
  EXPECT_EQ(asked_, 1u);
}

TEST_F(TopCommand, PrintsTheNodesJson) {
  Process top({"top", "--node", path_, "--json"});
  EXPECT_TRUE(top.printed("\n}\n"));
  EXPECT_EQ(top.wait(), 0) << top.err();
  EXPECT_EQ(nlohmann::json::parse(top.out()).at("name"), "a");
}

TEST_F(TopCommand, DrawsInPlaceAndLeavesTheTerminalAsItWas) {
  for (const std::string keys : {"q", "\x03"}) {
    Process top({"top", "--node", path_, "--interval", "100ms"}, Process::Streams::kTerminal);
    EXPECT_TRUE(top.printed("up " + std::to_string(asked_ + 3) + " s"));
    top.type(keys);
    EXPECT_EQ(top.wait(), 0);
    EXPECT_EQ(top.out().find(kEnter), 0u);
    EXPECT_EQ(top.out().rfind(kLeave), top.out().size() - std::string(kLeave).size());
  }
}

TEST_F(TopCommand, LeavesTheTerminalAsItWasWhenTerminated) {
  Process top({"top", "--node", path_}, Process::Streams::kTerminal);
  EXPECT_TRUE(top.printed("LAST DECISIONS"));
  top.signal(SIGTERM);
  EXPECT_EQ(top.wait(), 128 + SIGTERM);
  EXPECT_EQ(top.out().rfind(kLeave), top.out().size() - std::string(kLeave).size());
}

TEST_F(TopCommand, FollowsTheSizeOfTheTerminal) {
  Process top({"top", "--node", path_, "--interval", "60min"}, Process::Streams::kTerminal);
  EXPECT_TRUE(top.printed("LAST DECISIONS"));
  resize(top, 30, 4);
  EXPECT_TRUE(top.printed("  goal balance, autom~"));
  EXPECT_EQ(asked_, 1u) << "a resize is no reason to ask";
  top.type("q");
  EXPECT_EQ(top.wait(), 0);
}

TEST_F(TopCommand, OutlivesARestartOfTheNode) {
  Process top({"top", "--node", path_, "--interval", "100ms"}, Process::Streams::kTerminal);
  EXPECT_TRUE(top.printed("LAST DECISIONS"));
  vanish();
  EXPECT_TRUE(top.printed(" old: no node"));
  serve();
  const std::string next = "up " + std::to_string(asked_ + 1) + " s";
  EXPECT_TRUE(top.printed(next));
  top.type("q");
  EXPECT_EQ(top.wait(), 0);
}

}  // namespace
}  // namespace godwit::node
