#include "migration/convergence.h"

#include <fmt/format.h>

#include <algorithm>
#include <vector>

#include "vmm/memory/page_range.h"

namespace godwit::migration {

namespace {

constexpr double kWorthSending = 0.25;  // of the fixed part of the downtime

double ms_for(std::uint64_t bytes, double bytes_per_ms) {
  if (bytes == 0) return 0;
  return bytes_per_ms > 0 ? static_cast<double>(bytes) / bytes_per_ms : 1e9;
}

bool another_round_pays(const RoundFacts& facts, double paused_ms) {
  // What is dirtied meanwhile is to this round as this round is to the last.
  const double round_ms = ms_for(facts.dirty_bytes, facts.bytes_per_ms);
  return paused_ms > facts.fixed_ms * kWorthSending && round_ms <= facts.elapsed_ms / 10 &&
         round_ms <= facts.last_round_ms / 4;
}

constexpr double kStalled = 0.8;  // pages dirtied for a page sent: the next round is as long
constexpr unsigned kThrottleStep = 20;

double dirtied_per_sent(const Round& round) {
  return static_cast<double>(round.dirty_pages) /
         static_cast<double>(std::max<std::uint64_t>(round.pages, 1));
}

unsigned next_throttle(const RoundFacts& facts) {
  if (facts.max_throttle == 0 || will_converge(facts)) return facts.throttled;
  return std::min(facts.throttled + kThrottleStep, facts.max_throttle);
}

/// The guest dirties its memory faster than the link carries it, or as good as that.
bool is_hopeless(const RoundFacts& facts) {
  if (facts.throttled < facts.max_throttle) return false;
  return !will_converge(facts) ||
         (facts.rounds.size() == 1 && dirtied_per_sent(facts.rounds[0]) >= kStalled);
}

}  // namespace

bool will_converge(const RoundFacts& facts) {
  const std::size_t count = facts.rounds.size();
  if (count < 2 || facts.bytes_per_ms <= 0) return true;  // one sample is no curve
  const double ratio = std::min(dirtied_per_sent(facts.rounds[count - 1]),
                                dirtied_per_sent(facts.rounds[count - 2]));
  if (ratio >= kStalled) return false;
  if (facts.timeout_ms <= 0) return true;
  // Rounds that shrink by `ratio` make a geometric series, which ends where one fits the limit.
  const double limit_ms = std::max(facts.downtime_limit_ms - facts.fixed_ms, 1.0) *
                          facts.unheld_per_ms / facts.bytes_per_ms;
  const double first_ms = static_cast<double>(facts.dirty_bytes) / facts.bytes_per_ms;
  const double all_ms = std::max(0.0, (first_ms - limit_ms * ratio) / (1 - ratio));
  return facts.elapsed_ms + all_ms <= facts.timeout_ms;
}

Verdict decide(const RoundFacts& facts) {
  Verdict verdict;
  verdict.throttle = facts.throttled;
  const double sending_ms = ms_for(facts.dirty_bytes, facts.unheld_per_ms);
  verdict.predicted_downtime_ms = facts.fixed_ms + sending_ms;
  // Nothing left to send is as short as it gets, whatever the limit.
  if (facts.dirty_bytes == 0) {
    verdict.action = Verdict::Action::kSwitchOver;
  } else if (verdict.predicted_downtime_ms <= facts.downtime_limit_ms) {
    if (!another_round_pays(facts, sending_ms)) verdict.action = Verdict::Action::kSwitchOver;
  } else if (facts.may_post_copy && is_hopeless(facts)) {
    verdict.action = Verdict::Action::kPostCopy;
  } else if (facts.timeout_ms > 0 && facts.elapsed_ms >= facts.timeout_ms) {
    verdict.action = Verdict::Action::kGiveUp;
    verdict.why = fmt::format(
        "the guest dirties its memory too fast: after {:.0f} s the downtime would be {:.0f} ms, "
        "the limit is "
        "{:.0f} ms; raise --downtime-limit, --timeout or --throttle, or make the guest calmer",
        facts.elapsed_ms / 1000, verdict.predicted_downtime_ms, facts.downtime_limit_ms);
  } else {
    verdict.throttle = next_throttle(facts);
  }
  return verdict;
}

std::optional<Prediction> predict(const RoundFacts& facts) {
  constexpr unsigned kMostRounds = 1000;
  const auto running = [](unsigned throttled) { return 1 - throttled / 100.0; };
  RoundFacts now = facts;
  std::vector<Round> rounds(facts.rounds.begin(), facts.rounds.end());
  const double dirtied_per_ms = static_cast<double>(facts.dirty_bytes) /
                                std::max(facts.last_round_ms * running(facts.throttled), 1e-3);
  for (unsigned i = 0; i < kMostRounds; ++i) {
    now.rounds = rounds;
    const Verdict verdict = decide(now);
    if (verdict.action == Verdict::Action::kSwitchOver) {
      return Prediction{now.elapsed_ms + verdict.predicted_downtime_ms,
                        verdict.predicted_downtime_ms};
    }
    if (verdict.action != Verdict::Action::kGoOn || now.bytes_per_ms <= 0) return std::nullopt;
    now.throttled = verdict.throttle;
    now.last_round_ms = static_cast<double>(now.dirty_bytes) / now.bytes_per_ms;
    now.elapsed_ms += now.last_round_ms;
    const double dirtied = dirtied_per_ms * running(now.throttled) * now.last_round_ms;
    rounds.push_back({now.dirty_bytes / memory::kPageSize, now.dirty_bytes, now.last_round_ms, 0});
    now.dirty_bytes = std::min(facts.dirty_bytes, static_cast<std::uint64_t>(dirtied));
    rounds.back().dirty_pages = now.dirty_bytes / memory::kPageSize;
  }
  return std::nullopt;
}

}  // namespace godwit::migration
