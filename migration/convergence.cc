#include "migration/convergence.h"

#include <fmt/format.h>

namespace godwit::migration {

namespace {

constexpr double kWorthSending = 0.25;  // of the fixed part of the downtime

bool another_round_pays(const RoundFacts& facts, double sending_ms) {
  // What is dirtied meanwhile is to this round as this round is to the last.
  return sending_ms > facts.fixed_ms * kWorthSending && sending_ms <= facts.elapsed_ms / 10 &&
         sending_ms <= facts.last_round_ms / 4;
}

}  // namespace

Verdict decide(const RoundFacts& facts) {
  Verdict verdict;
  const double sending_ms = facts.dirty_bytes == 0 ? 0
                            : facts.bytes_per_ms > 0
                                ? static_cast<double>(facts.dirty_bytes) / facts.bytes_per_ms
                                : 1e9;
  verdict.predicted_downtime_ms = facts.fixed_ms + sending_ms;
  // Nothing left to send is as short as it gets, whatever the limit.
  if (facts.dirty_bytes == 0) {
    verdict.action = Verdict::Action::kSwitchOver;
  } else if (verdict.predicted_downtime_ms <= facts.downtime_limit_ms) {
    if (!another_round_pays(facts, sending_ms)) verdict.action = Verdict::Action::kSwitchOver;
  } else if (facts.timeout_ms > 0 && facts.elapsed_ms >= facts.timeout_ms) {
    verdict.action = Verdict::Action::kGiveUp;
    verdict.why = fmt::format(
        "the guest dirties its memory too fast: after {:.0f} s the downtime would be {:.0f} ms, "
        "the limit is "
        "{:.0f} ms; raise --downtime-limit or --timeout, or make the guest calmer",
        facts.elapsed_ms / 1000, verdict.predicted_downtime_ms, facts.downtime_limit_ms);
  }
  return verdict;
}

}  // namespace godwit::migration
