#include "vmm/sys/schedstat.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <filesystem>
#include <thread>

#include "tests/vmm/sys/on_one_cpu.h"

namespace godwit::sys {
namespace {

TEST(Schedstat, TakesTheSecondFigure) {
  EXPECT_EQ(parse_run_delay("123 456 7\n"), 456u);
  EXPECT_EQ(parse_run_delay("0 0 0\n"), 0u);
  EXPECT_EQ(parse_run_delay("1 18446744073709551615 1\n"), 18446744073709551615u);
}

TEST(Schedstat, TakesNothingElse) {
  for (const char* text : {"", "\n", "123", "123 ", "123 45", "x 45 6", "1 y 6", "-1 2 3", "1 -2 3",
                           "1 18446744073709551616 1", " 1 2 3", "1.5 2 3"}) {
    EXPECT_FALSE(parse_run_delay(text)) << '"' << text << '"';
  }
  EXPECT_FALSE(run_delay_ns(-1));
  EXPECT_FALSE(run_delay_ns(1 << 30));
}

/// Two threads that both want one CPU: each waits about as long as it runs. Where the kernel does
/// not count that, nothing is made up.
TEST(Schedstat, CountsTheWaitForABusyCpu) {
  if (!std::filesystem::exists("/proc/self/task/" + std::to_string(::gettid()) + "/schedstat")) {
    EXPECT_FALSE(run_delay_ns(::gettid()));
    return;
  }
  const OnOneCpu one;
  std::atomic<bool> stop = false;
  std::thread rival([&] {
    while (!stop) {
    }
  });
  const auto start = run_delay_ns(::gettid());
  const auto until = std::chrono::steady_clock::now() + std::chrono::milliseconds(300);
  while (std::chrono::steady_clock::now() < until) {
  }
  const auto end = run_delay_ns(::gettid());
  stop = true;
  rival.join();
  ASSERT_TRUE(start && end);
  EXPECT_GT(*end - *start, 50'000'000u);
}

}  // namespace
}  // namespace godwit::sys
