// The answer of the balancer: what to do, or why nothing. Every field a person would ask for is
// kept as a number; `explain` turns it into a sentence.
#pragma once

#include <functional>
#include <string>

#include "balancer/view.h"

namespace godwit::balancer {

enum class Action {
  kStay,    // nothing to do, or nothing beneficial
  kRefuse,  // something should be done and cannot
  kMove,
  kSwap,  // `guest` goes to `target`, `partner` comes back
  kWake,  // power `target` up; the moves that need it follow in the same plan
};

enum class Cause { kNone, kOverload, kImbalance, kConsolidation, kDrain, kHand };

enum class Obstacle {
  kNone,
  kBalanced,       // nothing to gain
  kNotPersistent,  // high now, but not for long enough or not expected to last
  kNoTarget,       // no peer passes rules, capacity and threshold
  kNotWorthIt,     // best benefit below its cost
  kCoolingDown,    // the guests that could go moved too recently
  kBusy,           // moves in flight use up the limits
  kPinned,         // `guest` may not move, or its figures are nonsense
  kNonsense,       // the host's own figures cannot be reckoned with
};

struct Decision {
  Action action = Action::kStay;
  Cause cause = Cause::kNone;
  Obstacle obstacle = Obstacle::kNone;
  GuestId guest = 0;  // of a refusal: the one that stands in the way, 0 for none
  GuestId partner = 0;
  HostId source = 0;
  HostId target = 0;
  unsigned plan = 0;  // decisions of one plan are carried out together or not at all
  // In units of work lost or gained: CPU capacity x seconds.
  double benefit = 0;
  double cost = 0;
  double seconds = 0;   // predicted duration of the move
  double downtime = 0;  // predicted, seconds
  // Forecast load as a fraction of capacity.
  double source_before = 0, source_after = 0;
  double target_before = 0, target_after = 0;
};

// Of a move or an exchange: what is gained for each guest that moves.
double gain_each(const Decision& decision);

const char* name(Action action);
const char* name(Cause cause);
const char* name(Obstacle obstacle);
// One line in words and numbers; guests and hosts by their numbers, or as the caller names them;
// `unit` is that of benefit and cost.
std::string explain(const Decision& decision);
std::string explain(const Decision& decision, const std::function<std::string(GuestId)>& guest_name,
                    const std::function<std::string(HostId)>& host_name, const char* unit);

}  // namespace godwit::balancer
