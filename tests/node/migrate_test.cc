// `godwit migrate` and `receive` as a user meets them: real binaries, a small guest of our own, TCP
// over loopback.
#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <sstream>
#include <thread>

#include "node/control_client.h"
#include "node/host_port.h"
#include "tests/node/process.h"

namespace godwit::node {
namespace {

using nlohmann::json;
using Words = std::vector<std::string>;

class MigrateTest : public testing::Test {
 protected:
  MigrateTest() { std::filesystem::create_directories(dir_); }
  ~MigrateTest() override { std::filesystem::remove_all(dir_); }

  Words run_words() const {
    return {"run",
            "--name",
            "web1",
            "--kernel",
            std::string(GODWIT_GUESTS) + "/pattern.elf",
            "--append",
            "mib=32 rate=8 tick=50",
            "--memory",
            "128M",
            "--api",
            here_};
  }
  Words receive_words(const Words& more = {}) const {
    Words words{"receive", "--listen", "127.0.0.1:0", "--api", there_};
    words.insert(words.end(), more.begin(), more.end());
    return words;
  }
  /// HOST:PORT that the process says it listens on.
  static std::string address_of(Process& receiver) {
    const std::string mark = "listening on ";
    EXPECT_TRUE(receiver.complained(mark));
    EXPECT_TRUE(receiver.complained("\n"));
    const std::size_t at = receiver.err().find(mark) + mark.size();
    return receiver.err().substr(at, receiver.err().find('\n', at) - at);
  }
  static std::string state(const std::string& socket) {
    return ControlClient(socket).get("/v1/status")["state"];
  }
  void goes_on_here(Process& guest) const {
    EXPECT_EQ(state(here_), "running");
    guest.read_for(0);
    const std::size_t before = guest.out().size();
    for (int i = 0; i < 100 && guest.out().size() == before; ++i) guest.read_for(50);
    EXPECT_GT(guest.out().size(), before) << "the guest prints nothing any more";
    EXPECT_EQ(guest.out().find("CORRUPT"), std::string::npos);
  }
  /// Not a byte of the console is lost, doubled or out of order.
  static void expect_every_tick_once(const std::string& console) {
    std::istringstream lines(console);
    std::string line;
    unsigned next = 0;
    while (std::getline(lines, line)) {
      unsigned tick = 0;
      if (std::sscanf(line.c_str(), "tick %u ", &tick) != 1) continue;
      EXPECT_EQ(tick, next) << console;
      next = tick + 1;
    }
    EXPECT_GT(next, 3u);
  }
  /// A move that takes for ever.
  Words slow_move(const std::string& to) const {
    return {"migrate",         here_,   "--to",      to, "--transport", "tcp",
            "--max-bandwidth", "1Mbit", "--timeout", "0"};
  }
  void wait_until_moving() const {
    for (int i = 0; i < 200; ++i) {
      const json active = ControlClient(here_).get("/v1/migration")["active"];
      if (active.is_object() && active["phase"] == "rounds") return;
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
    }
    FAIL() << "the move does not begin";
  }

  std::string dir_ = testing::TempDir() + "godwit_migrate_" + std::to_string(::getpid());
  std::string here_ = dir_ + "/here.sock";
  std::string there_ = dir_ + "/there.sock";
};

TEST_F(MigrateTest, TellsItsLoadDuringAMove) {
  Process source(run_words());
  ASSERT_TRUE(source.printed("tick 3 "));
  Process destination(receive_words());
  Process mover(slow_move(address_of(destination)));
  wait_until_moving();
  ControlClient(here_).get("/v1/load");
  std::this_thread::sleep_for(std::chrono::seconds(1));
  const auto start = std::chrono::steady_clock::now();
  const json load = ControlClient(here_).get("/v1/load");
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::milliseconds(500));
  EXPECT_EQ(load["state"], "migrating");
  EXPECT_GT(load["cpu_run_ns"], 0);
  EXPECT_GT(load["memory_used_bytes"], 1 << 20);
  const json coming = ControlClient(there_).get("/v1/load");
  EXPECT_EQ(coming["state"], "arriving");
  EXPECT_EQ(coming["cpu_run_ns"], 0);
}

TEST_F(MigrateTest, MovesAGuestThatGoesOnAsItWas) {
  Process source(run_words());
  ASSERT_TRUE(source.printed("tick 3 "));
  Process destination(receive_words());
  const std::string to = address_of(destination);
  Process mover({"migrate", here_, "--to", to, "--json", "--verify"});
  EXPECT_EQ(mover.wait(), 0) << mover.err();
  EXPECT_EQ(source.wait(), 0);
  EXPECT_EQ(source.err(), "godwit: run: web1 moved to " + to + "\n");
  EXPECT_FALSE(std::filesystem::exists(here_));

  const json report = json::parse(mover.out());
  EXPECT_EQ(report["status"], "completed");
  for (const auto* field : {"transport", "total_ms", "setup_ms", "downtime_ms", "downtime",
                            "rounds", "pages", "bytes", "throughput_mbps", "cpu_ms"}) {
    EXPECT_TRUE(report.contains(field)) << field;
  }
  EXPECT_EQ(state(there_), "running");
  EXPECT_EQ(ControlClient(there_).get("/v1/status")["name"], "web1");
  EXPECT_EQ(destination.out().find("CORRUPT"), std::string::npos);
  destination.type("q");
  EXPECT_EQ(destination.wait(), 0);
  expect_every_tick_once(source.out() + destination.out());
}

TEST_F(MigrateTest, ReportsToPeopleInAFewLines) {
  Process source(run_words());
  ASSERT_TRUE(source.printed("tick 1 "));
  Process destination(receive_words({"--name", "web2", "--console", "none"}));
  Process mover({"migrate", here_, "--to", address_of(destination), "--verify"});
  EXPECT_EQ(mover.wait(), 0) << mover.err();
  EXPECT_EQ(mover.err(), "") << "a progress bar in a pipe";
  EXPECT_NE(mover.out().find(" runs at 127.0.0.1:"), std::string::npos) << mover.out();
  EXPECT_NE(mover.out().find("downtime"), std::string::npos);
  EXPECT_EQ(ControlClient(there_).get("/v1/status")["name"], "web2");
  EXPECT_TRUE(destination.complained("web2 runs here now"));
}

TEST_F(MigrateTest, ReturnsAndReboots) {
  Process first(run_words());
  ASSERT_TRUE(first.printed("tick 1 "));
  Process second(receive_words());
  EXPECT_EQ(Process({"migrate", here_, "--to", address_of(second), "--verify"}).wait(), 0);
  EXPECT_EQ(first.wait(), 0);
  Process third({"receive", "--listen", "127.0.0.1:0", "--api", here_});
  EXPECT_EQ(Process({"migrate", there_, "--to", address_of(third), "--verify"}).wait(), 0);
  EXPECT_EQ(second.wait(), 0);
  ASSERT_TRUE(third.printed("tick "));
  third.type("r");
  EXPECT_TRUE(third.printed("tick 0 ")) << third.err();
  EXPECT_EQ(third.out().find("CORRUPT"), std::string::npos);
  third.type("q");
  EXPECT_EQ(third.wait(), 0);
}

TEST_F(MigrateTest, CanBeCancelledFromElsewhere) {
  Process source(run_words());
  ASSERT_TRUE(source.printed("tick 1 "));
  Process destination(receive_words());
  Process mover(slow_move(address_of(destination)));
  wait_until_moving();
  EXPECT_EQ(state(here_), "migrating");
  EXPECT_EQ(state(there_), "arriving");
  EXPECT_EQ(Process({"pause", here_}).wait(), 1);
  EXPECT_EQ(Process({"pause", there_}).wait(), 1);
  EXPECT_EQ(Process({"cancel", here_}).wait(), 0);
  EXPECT_EQ(mover.wait(), 4) << mover.err();
  EXPECT_EQ(mover.err(), "godwit: migrate: cancelled; " + here_ + " goes on here\n");
  EXPECT_EQ(destination.wait(), 1);
  EXPECT_FALSE(std::filesystem::exists(there_));
  goes_on_here(source);
  EXPECT_EQ(Process({"cancel", here_}).wait(), 1);
}

TEST_F(MigrateTest, IsCancelledByCtrlC) {
  Process source(run_words());
  ASSERT_TRUE(source.printed("tick 1 "));
  Process destination(receive_words());
  Process mover(slow_move(address_of(destination)));
  wait_until_moving();
  mover.signal(SIGINT);
  EXPECT_EQ(mover.wait(), 4);
  EXPECT_NE(mover.err().find("cancelling"), std::string::npos) << mover.err();
  goes_on_here(source);
}

TEST_F(MigrateTest, GoesOnWithoutTheCommandThatAskedForIt) {
  Process source(run_words());
  ASSERT_TRUE(source.printed("tick 1 "));
  Process destination(receive_words());
  {
    Process mover(slow_move(address_of(destination)));
    wait_until_moving();
    mover.signal(SIGKILL);
    mover.wait();
  }
  EXPECT_EQ(state(here_), "migrating");
  EXPECT_EQ(Process({"cancel", here_}).wait(), 0);
  EXPECT_EQ(destination.wait(), 1);
  goes_on_here(source);
}

TEST_F(MigrateTest, ShowsProgressOnATerminal) {
  Process source(run_words());
  ASSERT_TRUE(source.printed("tick 1 "));
  Process destination(receive_words());
  Process mover(slow_move(address_of(destination)), Process::Streams::kTerminalAll);
  EXPECT_TRUE(mover.printed("round 1, ")) << mover.out();
  mover.type("\x03");
  EXPECT_EQ(mover.wait(), 4);
}

TEST_F(MigrateTest, LeavesTheGuestHereWhenItTimesOut) {
  Process source(run_words());
  ASSERT_TRUE(source.printed("tick 1 "));
  Process destination(receive_words());
  Words words = slow_move(address_of(destination));
  words.back() = "500ms";
  Process mover(words);
  EXPECT_EQ(mover.wait(), 3) << mover.err();
  EXPECT_EQ(destination.wait(), 1);
  goes_on_here(source);
}

TEST_F(MigrateTest, LeavesTheGuestHereWhenTheDestinationDies) {
  for (const int number : {SIGKILL, SIGTERM}) {
    Process source(run_words());
    ASSERT_TRUE(source.printed("tick 1 "));
    Process destination(receive_words());
    Process mover(slow_move(address_of(destination)));
    wait_until_moving();
    destination.signal(number);
    EXPECT_EQ(destination.wait(), number == SIGTERM ? 128 + SIGTERM : -SIGKILL);
    EXPECT_EQ(mover.wait(), 3) << mover.err();
    goes_on_here(source);
    std::filesystem::remove(there_);
  }
}

TEST_F(MigrateTest, EndsTheDestinationWhenTheSourceDies) {
  Process source(run_words());
  ASSERT_TRUE(source.printed("tick 1 "));
  Process destination(receive_words());
  Process mover(slow_move(address_of(destination)));
  wait_until_moving();
  source.signal(SIGKILL);
  EXPECT_EQ(destination.wait(), 1);
  EXPECT_FALSE(std::filesystem::exists(there_));
  EXPECT_EQ(mover.wait(), 1);
  EXPECT_NE(mover.err().find("lost contact"), std::string::npos) << mover.err();
}

TEST_F(MigrateTest, EndsItsGuestOnSigtermDuringAMove) {
  Process source(run_words());
  ASSERT_TRUE(source.printed("tick 1 "));
  Process destination(receive_words());
  Process mover(slow_move(address_of(destination)));
  wait_until_moving();
  source.signal(SIGTERM);
  EXPECT_EQ(source.wait(), 128 + SIGTERM);
  EXPECT_EQ(mover.wait(), 4) << mover.err();
  EXPECT_EQ(destination.wait(), 1);
}

TEST_F(MigrateTest, FollowsAGuestThatPowersOffDuringItsMove) {
  Process source(run_words());
  ASSERT_TRUE(source.printed("tick 1 "));
  Process destination(receive_words());
  Process mover(slow_move(address_of(destination)));
  wait_until_moving();
  source.type("q");
  EXPECT_EQ(source.wait(), 0);
  EXPECT_EQ(destination.wait(), 1);
}

TEST_F(MigrateTest, SaysWhyNobodyAnswers) {
  Process source(run_words());
  ASSERT_TRUE(source.printed("tick 1 "));
  Process mover({"migrate", here_, "--to", "127.0.0.1:1"});
  EXPECT_EQ(mover.wait(), 3);
  EXPECT_NE(mover.err().find("refused"), std::string::npos) << mover.err();
  EXPECT_EQ(std::count(mover.err().begin(), mover.err().end(), '\n'), 1) << mover.err();
  goes_on_here(source);
}

TEST_F(MigrateTest, RefusesANameThatTheDestinationHas) {
  Process source(run_words());
  ASSERT_TRUE(source.printed("tick 1 "));
  Process destination(receive_words());
  const std::string to = address_of(destination);
  Words other = run_words();
  other.back() = there_;
  Process inhabitant(other);
  ASSERT_TRUE(inhabitant.printed("tick 1 "));
  Process mover({"migrate", here_, "--to", to});
  EXPECT_EQ(mover.wait(), 3);
  EXPECT_NE(mover.err().find("the destination refused: a guest named web1 is already running"),
            std::string::npos)
      << mover.err();
  EXPECT_EQ(destination.wait(), 1);
  EXPECT_EQ(state(there_), "running");
  goes_on_here(source);
}

class ReceiveTest : public MigrateTest {};

TEST_F(ReceiveTest, EndsOnASignalWhileItWaits) {
  Process receiver(receive_words());
  address_of(receiver);
  receiver.signal(SIGINT);
  EXPECT_EQ(receiver.wait(), 128 + SIGINT);
  EXPECT_EQ(receiver.out(), "");
}

TEST_F(ReceiveTest, RefusesABusyPort) {
  Process first(receive_words());
  const std::string where = address_of(first);
  Process second({"receive", "--listen", where, "--api", there_});
  EXPECT_EQ(second.wait(), 1);
  EXPECT_EQ(second.err(), "godwit: receive: --listen: " + where + ": Address already in use\n");
}

TEST_F(ReceiveTest, ListensOnIpv6InBrackets) {
  Process receiver({"receive", "--listen", "[::1]:0", "--api", there_});
  EXPECT_EQ(address_of(receiver).rfind("[::1]:", 0), 0u);
}

TEST_F(ReceiveTest, SaysOneLineOfAStrangerAndGoesOnListening) {
  Process receiver(receive_words());
  const HostPort where = parse_host_port(address_of(receiver));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(where.port);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  const sys::UniqueFd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  ASSERT_EQ(::connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  constexpr std::string_view kRequest = "GET / HTTP/1.1\r\nHost: godwit\r\n\r\n";
  ASSERT_GT(::send(fd.get(), kRequest.data(), kRequest.size(), MSG_NOSIGNAL), 0);
  EXPECT_TRUE(receiver.complained("still listening")) << receiver.err();
  EXPECT_EQ(std::count(receiver.err().begin(), receiver.err().end(), '\n'), 2) << receiver.err();
}

}  // namespace
}  // namespace godwit::node
