#include "node/start_clock.h"

#include <ctime>

namespace godwit::node {

namespace {

std::uint64_t now(clockid_t clock) {
  timespec time{};
  ::clock_gettime(clock, &time);
  return static_cast<std::uint64_t>(time.tv_sec) * 1'000'000'000u +
         static_cast<std::uint64_t>(time.tv_nsec);
}

}  // namespace

const StartClock& start_clock() {
  static const StartClock clock{now(CLOCK_MONOTONIC), now(CLOCK_PROCESS_CPUTIME_ID)};
  return clock;
}

}  // namespace godwit::node
