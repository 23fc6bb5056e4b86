// When this process began, for `godwit run --verbose`.
#pragma once

#include <cstdint>

namespace godwit::node {

struct StartClock {
  std::uint64_t main_ns;     // CLOCK_MONOTONIC when main() began
  std::uint64_t loading_ns;  // CPU time the process had used by then: exec and dynamic linking
};

/// The first call, first thing in main(), takes the time; later ones return it.
const StartClock& start_clock();

}  // namespace godwit::node
