// The virtio console: what the guest prints and what is typed, a move in the middle of either, and
// what bad drivers do.
#include "vmm/devices/virtio/console.h"

#include <condition_variable>
#include <mutex>
#include <string>

#include "tests/vmm/devices/virtio/plain_driver.h"

namespace godwit::devices {
namespace {

constexpr std::uint64_t kData = 4 << 20, kBuffer = 6 << 20;
constexpr unsigned kReceive = 0, kTransmit = 1;

/// Keeps what is printed; blocks while it is shut.
class Screen {
 public:
  void print(std::span<const std::byte> bytes) {
    std::unique_lock lock(mutex_);
    largest_ = std::max(largest_, bytes.size());
    text_.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    changed_.notify_all();
    changed_.wait(lock, [this] { return !shut_; });
  }
  void shut(bool on) {
    const std::lock_guard lock(mutex_);
    shut_ = on;
    changed_.notify_all();
  }
  std::string text() {
    const std::lock_guard lock(mutex_);
    return text_;
  }
  std::size_t largest() {
    const std::lock_guard lock(mutex_);
    return largest_;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::string text_;
  std::size_t largest_ = 0;
  bool shut_ = false;
};

struct ConsoleMachine : PlainWiring {
  Screen screen;
  VirtioConsole console{[this](std::span<const std::byte> bytes) { screen.print(bytes); }};
  VirtioPci device{console, memory, vectors, doorbells, kBar};
  PlainDriver driver{device, memory, console.queue_sizes()};
};

std::span<const std::byte> bytes_of(std::string_view text) {
  return std::as_bytes(std::span(text));
}

class VirtioConsoleTest : public testing::Test {
 protected:
  void SetUp() override { ASSERT_EQ(here_.driver.bring_up(), 15); }

  std::string received(std::uint32_t size) {
    const auto bytes = *here_.memory.readable(kBuffer, size);
    return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
  }

  ConsoleMachine here_;
};

TEST_F(VirtioConsoleTest, PrintsWhatTheGuestWritesInItsOrder) {
  EXPECT_EQ(here_.device.read_config(2, 2), 0x1043u);
  here_.driver.store(kData, bytes_of("hello, world\n"));
  EXPECT_EQ(here_.driver.ask(kTransmit, {{kData, 7}, {kData + 7, 6}}), 0u);
  EXPECT_EQ(here_.driver.ask(kTransmit, {{kData, 5}}), 0u);
  EXPECT_EQ(here_.screen.text(), "hello, world\nhello");
  EXPECT_GT(here_.vectors.fired(kTransmit), 0);
}

TEST_F(VirtioConsoleTest, GivesTheGuestWhatIsTypedOnceItHasBuffers) {
  EXPECT_EQ(here_.console.input(bytes_of("ls -l\n")), 6u);
  EXPECT_EQ(here_.driver.ask(kReceive, {{kBuffer, 4, true}}), 4u);
  EXPECT_EQ(received(4), "ls -");
  EXPECT_EQ(here_.driver.ask(kReceive, {{kBuffer, 1, true}, {kBuffer + 1, 100, true}}), 2u);
  EXPECT_EQ(received(2), "l\n");
  here_.driver.offer(kReceive, {{kBuffer, 64, true}});
  const auto before = here_.driver.rings[kReceive].used_index();
  EXPECT_EQ(here_.console.input(bytes_of("x")), 1u);
  EXPECT_TRUE(eventually([&] { return here_.driver.rings[kReceive].used_index() != before; }));
  EXPECT_EQ(received(1), "x");
  EXPECT_GT(here_.vectors.fired(kReceive), 0);
}

TEST_F(VirtioConsoleTest, TakesNoMoreThanItsShareOfWhatNobodyReads) {
  const std::string much(VirtioConsole::kMaxWaiting + 1, 'm');
  EXPECT_EQ(here_.console.input(bytes_of(much)), VirtioConsole::kMaxWaiting);
  EXPECT_EQ(here_.console.input(bytes_of("m")), 0u);
  here_.device.quiesce();
  ConsoleMachine there;
  EXPECT_EQ(there.console.input(bytes_of("m")), 0u) << "no driver yet";
}

TEST_F(VirtioConsoleTest, TypedBytesAndTheRestOfALongLineGoWithTheGuest) {
  const std::string line(3 * VirtioConsole::kPiece + 5, 'p');
  here_.driver.store(kData, bytes_of(line));
  EXPECT_EQ(here_.console.input(bytes_of("typed")), 5u);
  here_.screen.shut(true);
  here_.driver.offer(kTransmit, {{kData, static_cast<std::uint32_t>(line.size())}});
  ASSERT_TRUE(eventually([&] { return !here_.screen.text().empty(); }));
  std::thread opener([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    here_.screen.shut(false);
  });
  here_.device.quiesce();
  opener.join();
  const std::string part = here_.screen.text();
  EXPECT_EQ(part.size(), VirtioConsole::kPiece) << "the pause waits for one piece, not for all";
  EXPECT_EQ(here_.console.input(bytes_of("late")), 0u);

  ConsoleMachine there;
  move_plain(there, there.device, here_, here_.device);
  DriverRing& ring = there.driver.rings[kTransmit];
  EXPECT_TRUE(eventually([&] { return ring.used_index() == 1; }));
  EXPECT_EQ(part + there.screen.text(), line);
  EXPECT_EQ(there.driver.ask(kReceive, {{kBuffer, 64, true}}), 5u);
}

TEST_F(VirtioConsoleTest, AChainAsLongAsRamIsPrintedInPieces) {
  EXPECT_EQ(here_.driver.ask(kTransmit, {{kData, 1 << 20}, {kData, 1 << 20}}), 0u);
  EXPECT_EQ(here_.screen.text().size(), 2u << 20);
  EXPECT_EQ(here_.screen.largest(), VirtioConsole::kPiece);
}

TEST_F(VirtioConsoleTest, ChainsInTheWrongDirectionBreakItUntilItIsReset) {
  here_.driver.offer(kTransmit, {{kData, 16, true}});
  EXPECT_TRUE(here_.driver.breaks());
  ASSERT_EQ(here_.driver.bring_up(), 15);
  here_.driver.offer(kReceive, {{kData, 16}});
  EXPECT_EQ(here_.console.input(bytes_of("x")), 1u);
  EXPECT_TRUE(here_.driver.breaks());
  ASSERT_EQ(here_.driver.bring_up(), 15);
  here_.driver.offer(kTransmit, {{16 << 20, 16}});
  EXPECT_TRUE(here_.driver.breaks()) << "outside RAM";
  ASSERT_EQ(here_.driver.bring_up(), 15);
  here_.driver.store(kData, bytes_of("ok"));
  EXPECT_EQ(here_.driver.ask(kTransmit, {{kData, 2}}), 0u);
  EXPECT_EQ(here_.screen.text(), "ok");
}

TEST_F(VirtioConsoleTest, AResetForgetsWhatWasTyped) {
  EXPECT_EQ(here_.console.input(bytes_of("old")), 3u);
  ASSERT_EQ(here_.driver.bring_up(), 15);
  EXPECT_EQ(here_.console.input(bytes_of("new!")), 4u);
  EXPECT_EQ(here_.driver.ask(kReceive, {{kBuffer, 64, true}}), 4u);
  EXPECT_EQ(received(4), "new!");
}

}  // namespace
}  // namespace godwit::devices
