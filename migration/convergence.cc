#include "migration/convergence.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "vmm/memory/page_range.h"

namespace godwit::migration {

namespace {

constexpr double kWorthSending = 0.25;  // of the fixed part of the downtime
constexpr double kStalled = 0.8;        // pages dirtied for a page sent: the next round is as long
constexpr unsigned kThrottleStep = 20;
constexpr unsigned kMostRounds = 1000;
constexpr double kMargin = 1.5;          // of a time-out over what is predicted
constexpr std::uint64_t kLeastHot = 64;  // pages that go along, whatever the downtime limit

double ms_for(double bytes, double bytes_per_ms) {
  if (bytes <= 0) return 0;
  return bytes_per_ms > 0 ? bytes / bytes_per_ms : 1e9;
}

double running(unsigned throttled) { return 1 - throttled / 100.0; }

double dirtied_per_sent(const Round& round) {
  return static_cast<double>(round.dirty_pages) /
         static_cast<double>(std::max<std::uint64_t>(round.pages, 1));
}

bool another_round_pays(const RoundFacts& facts, double paused_ms) {
  const auto dirty = static_cast<double>(facts.dirty_bytes);
  const double round_ms = ms_for(dirty, facts.bytes_per_ms);
  // As long as there is no curve, what is dirtied meanwhile is to this round as this to the last.
  const double dirtied = facts.curve.known()
                             ? facts.curve.after(round_ms * running(facts.throttled))
                             : dirty * round_ms / facts.last_round_ms;
  return paused_ms > facts.fixed_ms * kWorthSending && round_ms <= facts.elapsed_ms / 10 &&
         dirtied <= dirty / 4;
}

unsigned next_throttle(const RoundFacts& facts) {
  if (facts.max_throttle == 0 || will_converge(facts)) return facts.throttled;
  return std::min(facts.throttled + kThrottleStep, facts.max_throttle);
}

/// The guest dirties its memory faster than the link carries it, or as good as that. One round is
/// enough where it has left that much: a shorter one leaves more for each page sent.
bool is_hopeless(const RoundFacts& facts) {
  if (facts.throttled < facts.max_throttle) return false;
  return !will_converge(facts) ||
         (facts.rounds.size() == 1 && dirtied_per_sent(facts.rounds[0]) >= kStalled);
}

std::string too_fast(const RoundFacts& facts, double downtime_ms) {
  return fmt::format(
      "the guest dirties its memory too fast: after {:.0f} s the downtime would be {:.0f} ms, the "
      "limit is {:.0f} ms; raise --downtime-limit, --timeout or --throttle, or make the guest "
      "calmer",
      facts.elapsed_ms / 1000, downtime_ms, facts.downtime_limit_ms);
}

}  // namespace

void add_round(RoundFacts& facts) {
  const double age = facts.rounds.size() == 1 ? 0.5 : 1;
  facts.curve.add(facts.last_round_ms * age * running(facts.throttled),
                  static_cast<double>(facts.dirty_bytes));
}

bool will_converge(const RoundFacts& facts) {
  const std::size_t count = facts.rounds.size();
  if (count < 2 || facts.bytes_per_ms <= 0) return true;  // one sample is no curve
  const double ratio = std::min(dirtied_per_sent(facts.rounds[count - 1]),
                                dirtied_per_sent(facts.rounds[count - 2]));
  if (ratio >= kStalled) return false;
  const double limit =
      std::max(facts.downtime_limit_ms - facts.fixed_ms, 1.0) * facts.unheld_per_ms;
  double elapsed_ms = facts.elapsed_ms;
  auto left = static_cast<double>(facts.dirty_bytes);
  while (left > limit) {
    const double round_ms = left / facts.bytes_per_ms;
    const double next =
        facts.curve.known() ? facts.curve.after(round_ms * running(facts.throttled)) : left * ratio;
    elapsed_ms += round_ms;
    if (next >= left * kStalled && next > limit) return false;
    if (facts.timeout_ms > 0 && elapsed_ms > facts.timeout_ms) return false;
    left = next;
  }
  return true;
}

Verdict decide(const RoundFacts& facts) {
  Verdict verdict;
  verdict.throttle = facts.throttled;
  const double sending_ms = ms_for(static_cast<double>(facts.dirty_bytes), facts.unheld_per_ms);
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
    verdict.why = too_fast(facts, verdict.predicted_downtime_ms);
  } else {
    verdict.throttle = next_throttle(facts);
  }
  return verdict;
}

std::string out_of_time(const RoundFacts& facts) {
  if (!facts.rounds.empty()) {
    // What the guest has written since the round began is not known: as much as in the last.
    const std::uint64_t last = facts.rounds.back().dirty_pages * memory::kPageSize;
    const auto left = static_cast<double>(std::max(facts.dirty_bytes, last));
    const double downtime_ms = facts.fixed_ms + ms_for(left, facts.unheld_per_ms);
    if (downtime_ms > facts.downtime_limit_ms) return too_fast(facts, downtime_ms);
  }
  constexpr double kMiB = 1 << 20;
  return fmt::format(
      "its time is up after {:.0f} s: {:.0f} MiB of round {} are left, of which {:.1f} MiB go in a "
      "second; raise --timeout{}",
      facts.elapsed_ms / 1000, static_cast<double>(facts.dirty_bytes) / kMiB,
      facts.rounds.size() + 1, facts.bytes_per_ms * 1000 / kMiB,
      facts.unheld_per_ms > facts.bytes_per_ms ? " or --max-bandwidth" : "");
}

namespace {

/// What is dirty after a round that sends `sent` bytes. Its pages are clean from their turn on,
/// half of the round on average; the others that the guest writes, all of the round. `whole`: all
/// that it is known to write.
double dirtied_by(const DirtyCurve& guest, double guest_ms, double sent, double whole) {
  const double share = whole > 0 ? std::min(sent / whole, 1.0) : 1;
  return share * guest.after(guest_ms / 2) + (1 - share) * guest.after(guest_ms);
}

/// Sends one round of `now`, which is then as it will be found at its end.
void send_round(RoundFacts& now, std::vector<Round>& rounds, const DirtyCurve& guest) {
  const auto sent = static_cast<double>(now.dirty_bytes);
  const double whole = rounds.empty() ? sent : guest.after(rounds[0].ms);
  now.last_round_ms = ms_for(sent, now.bytes_per_ms);
  now.elapsed_ms += now.last_round_ms;
  double dirtied = dirtied_by(guest, now.last_round_ms * running(now.throttled), sent, whole);
  if (now.data_bytes > 0) dirtied = std::min(dirtied, now.data_bytes);
  rounds.push_back({now.dirty_bytes / memory::kPageSize, now.dirty_bytes, now.last_round_ms, 0});
  now.dirty_bytes = static_cast<std::uint64_t>(std::min(dirtied, 1e18));
  rounds.back().dirty_pages = now.dirty_bytes / memory::kPageSize;
  now.rounds = rounds;
  add_round(now);
}

}  // namespace

std::uint64_t most_hot_pages(const RoundFacts& facts) {
  const double room_ms = std::max(facts.downtime_limit_ms - facts.fixed_ms, 0.0);
  const double pages = std::min(room_ms * facts.unheld_per_ms / memory::kPageSize, 1e15);
  return std::max(static_cast<std::uint64_t>(pages), kLeastHot);
}

Prediction predict_post_copy(const RoundFacts& facts, const DirtyCurve& guest) {
  const double rest_ms =
      ms_for(static_cast<double>(facts.dirty_bytes), facts.bytes_per_ms * facts.wire_share);
  const double watched_ms = facts.rounds.empty() ? 0 : kHotWindowMs;
  const double hot = std::min(guest.after(watched_ms * running(facts.throttled)),
                              static_cast<double>(most_hot_pages(facts) * memory::kPageSize));
  const double downtime_ms = facts.fixed_ms + ms_for(hot, facts.unheld_per_ms);
  return {.total_ms = facts.elapsed_ms + watched_ms + downtime_ms + rest_ms,
          .downtime_ms = downtime_ms,
          .rounds = static_cast<unsigned>(facts.rounds.size()),
          .throttle = facts.throttled,
          .post_copy = true};
}

Forecast predict(const RoundFacts& facts, const DirtyCurve& guest) {
  RoundFacts now = facts;
  std::vector<Round> rounds(facts.rounds.begin(), facts.rounds.end());
  now.rounds = rounds;
  Verdict verdict;
  while (rounds.size() < kMostRounds) {
    if (!rounds.empty()) {
      verdict = decide(now);
      now.throttled = verdict.throttle;
    }
    switch (verdict.action) {
      case Verdict::Action::kPostCopy:
        return {predict_post_copy(now, guest), {}};
      case Verdict::Action::kSwitchOver:
        return {Prediction{.total_ms = now.elapsed_ms + verdict.predicted_downtime_ms,
                           .downtime_ms = verdict.predicted_downtime_ms,
                           .rounds = static_cast<unsigned>(rounds.size()),
                           .throttle = now.throttled},
                {}};
      case Verdict::Action::kGiveUp:
        return {std::nullopt, verdict.why};
      case Verdict::Action::kGoOn:
        break;
    }
    send_round(now, rounds, guest);
  }
  return {std::nullopt, too_fast(now, verdict.predicted_downtime_ms)};
}

std::vector<Remedy> remedies(const RoundFacts& facts, const DirtyCurve& guest) {
  std::vector<Remedy> found;
  const auto try_out = [&](const std::string& option, const RoundFacts& changed) {
    const auto end = predict(changed, guest).end;
    if (end) found.push_back({option, *end});
    return end.has_value();
  };
  RoundFacts changed = facts;
  changed.may_post_copy = true;
  if (!facts.may_post_copy) try_out("--mode hybrid", changed);
  changed = facts;
  for (const unsigned percent : {20u, 40u, 60u, 80u, 95u}) {
    changed.max_throttle = percent;
    if (percent > facts.max_throttle && try_out(fmt::format("--throttle {}", percent), changed))
      break;
  }
  changed = facts;
  constexpr double kLongestDowntime = 60'000;
  for (double limit = 50; limit <= kLongestDowntime; limit *= 2) {
    changed.downtime_limit_ms = limit;
    if (limit > facts.downtime_limit_ms &&
        try_out(fmt::format("--downtime-limit {:.0f}ms", limit), changed)) {
      break;
    }
  }
  changed = facts;
  changed.timeout_ms = 0;
  if (const auto end = predict(changed, guest).end; end && facts.timeout_ms > 0) {
    found.push_back(
        {fmt::format("--timeout {:.0f}s", std::ceil(end->total_ms * kMargin / 1000)), *end});
  }
  return found;
}

}  // namespace godwit::migration
