// Decides, after each round, whether the move goes on, switches over or is given up. Pure.
#pragma once

#include <cstdint>
#include <string>

namespace godwit::migration {

/// What is known at the end of a round.
struct RoundFacts {
  std::uint64_t dirty_bytes = 0;  // to be sent again
  double bytes_per_ms = 0;        // measured over the rounds so far
  double fixed_ms = 0;            // of the switch-over beside sending: pause, state, resume
  double downtime_limit_ms = 0;
  double last_round_ms = 0;  // in which dirty_bytes were dirtied
  double elapsed_ms = 0;     // since the move began
  double timeout_ms = 0;     // 0: none
};

struct Verdict {
  enum class Action { kGoOn, kSwitchOver, kGiveUp } action = Action::kGoOn;
  double predicted_downtime_ms = 0;
  std::string why;  // for kGiveUp: one line for the user
};

/// Switches over once the predicted downtime fits the limit and another round would not pay. One
/// pays that costs next to nothing beside the move so far (a tenth) and sends most (three quarters)
/// of what would else be sent while the guest stands still.
Verdict decide(const RoundFacts& facts);

}  // namespace godwit::migration
