// A guest that does nothing but sleep: HLT until its timer fires, a tick, and again. What is typed
// is said back. Parameter: tick=MS.
#include "guest.h"

namespace guest {
namespace {

void take(int c) {
  if (c == 'q') power_off();
  if (c == 'r') reset();
  if (c == 't') triple_fault();
  if (c == 'h') halt();  // for ever: nothing wakes it
  print("typed ", static_cast<char>(c));
}

}  // namespace

void main() {
  const std::uint64_t tick_ns = parameter("tick", 100) * 1'000'000;
  Clock clock;
  print("ready cpus=", cpus_present());
  for (std::uint64_t sequence = 0;; ++sequence) {
    print("tick ", sequence, " t=", clock.now_ns() / 1'000'000);
    for (int c = typed(); c >= 0; c = typed()) take(c);
    sleep_ns(tick_ns);
  }
}

}  // namespace guest
