#include "node/console.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <numeric>
#include <sstream>
#include <string_view>

namespace godwit::node {
namespace {

std::span<const std::byte> bytes(std::string_view text) { return std::as_bytes(std::span(text)); }

std::string text(const std::vector<std::byte>& data) {
  return {reinterpret_cast<const char*>(data.data()), data.size()};
}

struct Pipe {
  Pipe() {
    std::array<int, 2> fds{};
    if (::pipe2(fds.data(), O_CLOEXEC) != 0) throw std::runtime_error("pipe2");
    read = sys::UniqueFd(fds[0]);
    write = sys::UniqueFd(fds[1]);
  }
  std::string drain() const {
    std::string all;
    std::array<char, 4096> buffer{};
    for (;;) {
      const ssize_t count = ::read(read.get(), buffer.data(), buffer.size());
      if (count <= 0) return all;
      all.append(buffer.data(), static_cast<std::size_t>(count));
    }
  }
  sys::UniqueFd read;
  sys::UniqueFd write;
};

std::string pattern(std::size_t size) {
  std::string data(size, '\0');
  for (std::size_t i = 0; i < size; ++i) data[i] = static_cast<char>('a' + i * 7 / 3 % 26);
  return data;
}

TEST(ConsoleOutput, LosesNoByteToASlowNonBlockingPipe) {
  Pipe pipe;
  ::fcntl(pipe.write.get(), F_SETFL, O_NONBLOCK);
  ::fcntl(pipe.write.get(), F_SETPIPE_SZ, 4096);
  const std::string sent = pattern(1 << 20);
  std::string received;
  std::thread reader([&] { received = pipe.drain(); });
  {
    ConsoleOutput output(std::move(pipe.write));
    for (std::size_t at = 0; at < sent.size(); at += 1000) {
      output.write(bytes(std::string_view(sent).substr(at, 1000)));
    }
  }
  reader.join();
  EXPECT_EQ(received == sent, true);
}

TEST(ConsoleOutput, HoldsUpAGuestThatPrintsToNobodyButNotItsPause) {
  Pipe pipe;
  ConsoleOutput output(std::move(pipe.write));
  std::atomic<int> written = 0;
  std::thread vcpu([&] {
    const std::string line(1000, 'x');
    for (; written < 300; ++written) output.write(bytes(line));
  });
  while (written < 100) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  std::this_thread::sleep_for(std::chrono::milliseconds(100));
  EXPECT_LT(written, 300) << "the writer was never held up";
  output.hurry(true);
  vcpu.join();  // within its 60 s limit this test ends only if write() let go
  EXPECT_EQ(written, 300);
}

TEST(ConsoleOutput, GivesUpOnAReaderThatLeft) {
  Pipe pipe;
  ::signal(SIGPIPE, SIG_IGN);
  pipe.read.reset();
  ConsoleOutput output(std::move(pipe.write));
  const std::string line(1000, 'x');
  for (int i = 0; i < 1000; ++i) output.write(bytes(line));
}

TEST(ConsoleOutput, AppendsToItsFile) {
  const std::string path = testing::TempDir() + "godwit_console.log";
  std::filesystem::remove(path);
  for (const auto* line : {"first\n", "second\n"}) {
    ConsoleOutput output(ConsoleConfig{ConsoleConfig::Kind::kFile, path});
    output.write(bytes(line));
  }
  std::ostringstream content;
  content << std::ifstream(path).rdbuf();
  EXPECT_EQ(content.str(), "first\nsecond\n");
  std::filesystem::remove(path);
}

TEST(ConsoleOutput, NamesAFileItCannotOpen) {
  EXPECT_THROW(ConsoleOutput(ConsoleConfig{ConsoleConfig::Kind::kFile, "/nowhere/log"}),
               std::runtime_error);
}

TEST(ParseConsole, KnowsThreeForms) {
  EXPECT_EQ(parse_console("stdio").kind, ConsoleConfig::Kind::kStdio);
  EXPECT_EQ(parse_console("none").kind, ConsoleConfig::Kind::kNone);
  EXPECT_EQ(parse_console("file:/tmp/x").path, "/tmp/x");
  for (const auto* bad : {"", "file:", "file", "tty", "Stdio"}) {
    EXPECT_THROW(parse_console(bad), std::invalid_argument) << bad;
  }
}

TEST(EscapeFilter, QuitsOnCtrlAX) {
  EscapeFilter filter;
  const auto result = filter.take(bytes("ab\x01xcd"));
  EXPECT_TRUE(result.quit);
  EXPECT_EQ(text(result.bytes), "ab");
}

TEST(EscapeFilter, SendsCtrlAWhenTypedTwice) {
  EscapeFilter filter;
  const auto result = filter.take(bytes("a\x01\x01z"));
  EXPECT_FALSE(result.quit);
  EXPECT_EQ(text(result.bytes), "a\x01z");
}

TEST(EscapeFilter, RemembersHalfAnEscape) {
  EscapeFilter filter;
  EXPECT_TRUE(filter.take(bytes("\x01")).bytes.empty());
  EXPECT_TRUE(filter.take(bytes("x")).quit);
}

TEST(EscapeFilter, LeavesAllElseAlone) {
  EscapeFilter filter;
  EXPECT_EQ(text(filter.take(bytes("ls -l\r\x03\x04\x1b[A")).bytes), "ls -l\r\x03\x04\x1b[A");
}

}  // namespace
}  // namespace godwit::node
