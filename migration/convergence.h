// Decides, after each round, whether the move goes on, switches over or is given up. Pure.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "migration/dirty_curve.h"
#include "migration/report.h"

namespace godwit::migration {

/// What is known at the end of a round.
struct RoundFacts {
  std::uint64_t dirty_bytes = 0;  // to be sent again
  double bytes_per_ms = 0;        // measured over the rounds so far, held back as they are
  double unheld_per_ms = 0;       // bytes; the same while nothing is held back: of the last round
  double wire_share = 1;          // of these that travels; post-copy's pages are not compressed
  double fixed_ms = 0;            // of the switch-over beside sending: pause, state, resume
  double downtime_limit_ms = 0;
  double last_round_ms = 0;            // in which dirty_bytes were dirtied
  double elapsed_ms = 0;               // since the move began
  double timeout_ms = 0;               // 0: none
  std::span<const Round> rounds = {};  // so far; the last one's dirty_pages are known, too
  DirtyCurve curve = {};               // as these have shown it
  double data_bytes = 0;               // of RAM that hold data: no more can be dirty; 0: not known
  unsigned throttled = 0;              // percent of the vCPUs' time that is taken now
  unsigned max_throttle = 0;           // percent; 0: not wanted
  bool may_post_copy = false;          // where it would not converge
};

struct Verdict {
  enum class Action { kGoOn, kSwitchOver, kPostCopy, kGiveUp } action = Action::kGoOn;
  double predicted_downtime_ms = 0;
  unsigned throttle = 0;  // percent of the vCPUs' time to take from now on
  std::string why;        // for kGiveUp: one line for the user
};

/// What a round adds to the curve. A page is clean from its turn in the first pass on, half of the
/// pass on average.
void add_round(RoundFacts& facts);

/// Switches over once the predicted downtime fits the limit and another round would not pay. One
/// pays that costs next to nothing beside the move so far (a tenth) and sends most (three quarters)
/// of what would else be sent while the guest stands still.
///
/// Where it goes on and will not converge, the vCPUs are throttled harder, a step a round; once
/// they are as much as they may be, or where the first round already left more than it sent, the
/// rest goes by post-copy if it may.
Verdict decide(const RoundFacts& facts);

/// Why a move is not done whose time-out comes in the middle of a round, of which `dirty_bytes` are
/// left: one line for the user.
std::string out_of_time(const RoundFacts& facts);

/// How a move would end that goes on as decide() has it, at the rates measured so far.
struct Forecast {
  std::optional<Prediction> end;  // none: it would be given up, or go on for ever
  std::string why_not;            // then: one line for the user
};
/// `guest`: how it dirties memory, if it goes on as it has. `facts` without rounds are of a move
/// that has not begun: its dirty_bytes are what there is to send.
Forecast predict(const RoundFacts& facts, const DirtyCurve& guest);
/// Of a move that goes over to post-copy with what is dirty now.
Prediction predict_post_copy(const RoundFacts& facts, const DirtyCurve& guest);

/// Where post-copy follows rounds, what the guest wrote in so long just before it stops goes along
/// with its state,
constexpr double kHotWindowMs = 20;
/// at most so many pages: as the downtime limit has room for.
std::uint64_t most_hot_pages(const RoundFacts& facts);

/// An option of `godwit migrate` with which a move would end that would not without.
struct Remedy {
  std::string option;
  Prediction prediction;
};
std::vector<Remedy> remedies(const RoundFacts& facts, const DirtyCurve& guest);

/// False once the rounds do not get shorter: in each of the last two nearly as much was dirtied as
/// was sent, or the curve says that the next ones would not shrink, or not to the limit before the
/// timeout.
bool will_converge(const RoundFacts& facts);

}  // namespace godwit::migration
