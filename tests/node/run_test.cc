// `godwit run` as a user meets it: the real binary with small guests of our own on the real KVM.
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <termios.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <thread>

#include "node/control_client.h"
#include "node/control_socket.h"
#include "tests/node/process.h"

namespace godwit::node {
namespace {

using nlohmann::json;
using Words = std::vector<std::string>;

class RunTest : public testing::Test {
 protected:
  RunTest() { std::filesystem::create_directories(dir_); }
  ~RunTest() override { std::filesystem::remove_all(dir_); }

  Words run(const char* guest, const Words& more = {}) const {
    Words words{"run",      "--name", "web1",  "--kernel", std::string(GODWIT_GUESTS) + "/" + guest,
                "--memory", "32M",    "--api", socket_};
    words.insert(words.end(), more.begin(), more.end());
    return words;
  }
  static int godwit(const Words& words) { return Process(words).wait(); }
  std::string state() const { return ControlClient(socket_).get("/v1/status")["state"]; }

  std::string dir_ = testing::TempDir() + "godwit_run_" + std::to_string(::getpid());
  std::string socket_ = dir_ + "/web1.sock";
};

TEST_F(RunTest, EndsWithZeroWhenTheGuestPowersOff) {
  Process guest(run("hello.elf"));
  EXPECT_EQ(guest.wait(), 0);
  EXPECT_EQ(guest.out(), "hello from a guest\n");
  EXPECT_EQ(guest.err(), "");
  EXPECT_FALSE(std::filesystem::exists(socket_));
}

TEST_F(RunTest, SaysWhenTheFirstInstructionRan) {
  Process guest(run("hello.elf", {"--verbose"}));
  EXPECT_EQ(guest.wait(), 0);
  EXPECT_NE(guest.err().find("first guest instruction"), std::string::npos) << guest.err();
}

TEST_F(RunTest, FailsWithOneLineWhenTheGuestCrashes) {
  Process guest(run("triple_fault.elf"));
  EXPECT_EQ(guest.wait(), 1);
  EXPECT_EQ(std::count(guest.err().begin(), guest.err().end(), '\n'), 1) << guest.err();
  EXPECT_NE(guest.err().find("triple fault"), std::string::npos) << guest.err();
}

TEST_F(RunTest, TellsThatTheGuestHasPanicked) {
  Process guest(run("panic.elf"));
  ASSERT_TRUE(guest.printed("panicked"));
  EXPECT_EQ(ControlClient(socket_).get("/v1/status")["panicked"], true);
  Process status({"status", socket_});
  EXPECT_EQ(status.wait(), 0);
  EXPECT_NE(status.out().find("running, its kernel has panicked"), std::string::npos);
  EXPECT_EQ(godwit({"stop", "--force", socket_}), 0);
  EXPECT_EQ(guest.wait(), 6);
  EXPECT_NE(guest.err().find("the guest's kernel had panicked"), std::string::npos) << guest.err();
}

TEST_F(RunTest, RefusesACpuModelThatThereIsNot) {
  Process guest(run("hello.elf", {"--cpu", "pentium"}));
  EXPECT_EQ(guest.wait(), 2);
  EXPECT_NE(guest.err().find("--cpu: pentium is no model"), std::string::npos) << guest.err();
}

TEST_F(RunTest, RebootsInTheSameProcess) {
  Process guest(run("idle.elf"));
  ASSERT_TRUE(guest.printed("tick 1 "));
  guest.type("r");
  const std::size_t before = guest.out().size();
  const auto again = [&] { return guest.out().find("ready", before) != std::string::npos; };
  for (int i = 0; i < 200 && !again(); ++i) guest.read_for(50);
  EXPECT_TRUE(again()) << guest.out() << guest.err();
  guest.type("q");
  EXPECT_EQ(guest.wait(), 0);
}

TEST_F(RunTest, KeepsRunningWhenItsInputEnds) {
  Process guest(run("idle.elf"));
  guest.close_stdin();
  EXPECT_TRUE(guest.printed("tick 3 "));
  EXPECT_EQ(godwit({"stop", "--force", socket_}), 0);
  EXPECT_EQ(guest.wait(), 0);
}

TEST_F(RunTest, PassesPipedInputOnUnchanged) {
  Process guest(run("idle.elf"));
  ASSERT_TRUE(guest.printed("ready"));
  guest.type("\x01x");
  EXPECT_TRUE(guest.printed("typed x"));
  guest.type("q");
  EXPECT_EQ(guest.wait(), 0);
}

TEST_F(RunTest, ObeysItsControlSocket) {
  Process guest(run("idle.elf", {"--cpus", "2"}));
  ASSERT_TRUE(guest.printed("tick 1 "));
  struct stat info {};
  ASSERT_EQ(::stat(socket_.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777u, 0600u);
  EXPECT_EQ(godwit({"pause", socket_}), 0);
  EXPECT_EQ(state(), "paused");
  Process status({"status", socket_, "--json"});
  EXPECT_EQ(status.wait(), 0);
  const json said = json::parse(status.out());
  EXPECT_EQ(said["name"], "web1");
  EXPECT_EQ(said["cpus"], 2);
  EXPECT_EQ(said["memory_bytes"], 32u << 20);
  EXPECT_EQ(said["pid"], guest.pid());
  EXPECT_EQ(godwit({"resume", socket_}), 0);
  EXPECT_EQ(state(), "running");
  EXPECT_EQ(godwit({"stop", socket_, "--force"}), 0);
  EXPECT_EQ(guest.wait(), 0);
  EXPECT_EQ(godwit({"status", socket_}), 1);
}

TEST_F(RunTest, EndsCleanlyOnSignals) {
  for (const int number : {SIGTERM, SIGINT, SIGHUP}) {
    Process guest(run("idle.elf"));
    ASSERT_TRUE(guest.printed("tick 1 "));
    guest.signal(number);
    EXPECT_EQ(guest.wait(), 128 + number);
    EXPECT_FALSE(std::filesystem::exists(socket_));
  }
}

TEST_F(RunTest, ReplacesTheSocketOfAKilledGuest) {
  {
    Process killed(run("idle.elf"));
    ASSERT_TRUE(killed.printed("tick 1 "));
    killed.signal(SIGKILL);
    EXPECT_EQ(killed.wait(), -SIGKILL);
  }
  ASSERT_TRUE(std::filesystem::exists(socket_));
  EXPECT_EQ(godwit(run("hello.elf")), 0);
}

TEST_F(RunTest, RefusesASecondGuestOfThatName) {
  Process guest(run("idle.elf"));
  ASSERT_TRUE(guest.printed("tick 1 "));
  Process second(run("hello.elf"));
  EXPECT_EQ(second.wait(), 1);
  EXPECT_EQ(second.err(), "godwit: run: a guest named web1 is already running (" + socket_ + ")\n");
  EXPECT_EQ(state(), "running");
}

TEST_F(RunTest, AppendsTheConsoleToAFile) {
  const std::string log = dir_ + "/console.log";
  std::ofstream(log) << "before\n";
  EXPECT_EQ(godwit(run("hello.elf", {"--console", "file:" + log})), 0);
  std::ifstream file(log);
  EXPECT_EQ(std::string(std::istreambuf_iterator<char>(file), {}), "before\nhello from a guest\n");
}

class RunOnATerminal : public RunTest {
 protected:
  static tcflag_t modes(const Process& process) {
    termios now{};
    EXPECT_EQ(::tcgetattr(process.terminal(), &now), 0);
    return now.c_lflag & (ICANON | ECHO | ISIG);
  }
};

TEST_F(RunOnATerminal, QuitsOnTheEscapeAndPutsTheTerminalBack) {
  Process guest(run("idle.elf"), Process::Streams::kTerminal);
  ASSERT_TRUE(guest.printed("tick 1 "));
  EXPECT_EQ(modes(guest), 0u) << "not raw while the guest runs";
  EXPECT_TRUE(guest.complained("Ctrl-A x quits"));
  guest.type("\x01\x01");
  EXPECT_TRUE(guest.printed("typed \x01"));
  guest.type("\x01x");
  EXPECT_EQ(guest.wait(), 0);
  EXPECT_EQ(modes(guest), tcflag_t(ICANON | ECHO | ISIG));
}

TEST_F(RunOnATerminal, PutsTheTerminalBackWhateverEndsIt) {
  for (const int number : {SIGTERM, SIGHUP, SIGSEGV, SIGABRT}) {
    Process guest(run("idle.elf"), Process::Streams::kTerminal);
    ASSERT_TRUE(guest.printed("tick 1 "));
    ASSERT_EQ(modes(guest), 0u);
    guest.signal(number);
    const int code = guest.wait();
    EXPECT_TRUE(code == 128 + number || code == -number) << code;
    EXPECT_EQ(modes(guest), tcflag_t(ICANON | ECHO | ISIG)) << "after signal " << number;
  }
}

TEST_F(RunOnATerminal, GivesCtrlCToTheGuest) {
  Process guest(run("idle.elf"), Process::Streams::kTerminal);
  ASSERT_TRUE(guest.printed("tick 1 "));
  guest.type("\x03");
  EXPECT_TRUE(guest.printed("typed \x03"));
  guest.type("q");
  EXPECT_EQ(guest.wait(), 0);
}

}  // namespace
}  // namespace godwit::node
