// A dry run's prediction against the move that follows, with simulated guests: some pages written
// again and again at random, others one after the other.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <optional>
#include <random>
#include <vector>

#include "migration/convergence.h"
#include "vmm/memory/page_range.h"

namespace godwit::migration {
namespace {

constexpr double kPage = memory::kPageSize;

class SimulatedGuest {
 public:
  struct Habits {
    std::size_t pages = 0;     // in use
    std::size_t hot = 0;       // of these, written at random
    double hot_per_ms = 0;     // such writes
    double stream_per_ms = 0;  // writes to the others, in turn
  };
  SimulatedGuest(Habits habits, unsigned seed)
      : habits_(habits), random_(seed), dirty_(habits.pages, false) {}

  void run(double ms) {
    for (hot_due_ += ms * habits_.hot_per_ms; hot_due_ >= 1; --hot_due_) {
      dirty_[random_() % habits_.hot] = true;
    }
    for (stream_due_ += ms * habits_.stream_per_ms; stream_due_ >= 1; --stream_due_) {
      dirty_[habits_.hot + next_++ % (habits_.pages - habits_.hot)] = true;
    }
  }
  void clean(std::size_t page) { dirty_[page] = false; }
  void clean_all() { dirty_.assign(dirty_.size(), false); }
  std::vector<std::size_t> dirty() const {
    std::vector<std::size_t> found;
    for (std::size_t page = 0; page < dirty_.size(); ++page) {
      if (dirty_[page]) found.push_back(page);
    }
    return found;
  }
  std::size_t pages() const { return dirty_.size(); }

 private:
  const Habits habits_;
  std::mt19937 random_;
  std::vector<bool> dirty_;
  double hot_due_ = 0;
  double stream_due_ = 0;
  std::size_t next_ = 0;
};

/// As Source does it: a page is clean from just before it is sent.
double send(SimulatedGuest& guest, const std::vector<std::size_t>& pages, double bytes_per_ms) {
  const double page_ms = kPage / bytes_per_ms;
  for (const std::size_t page : pages) {
    guest.clean(page);
    guest.run(page_ms);
  }
  return page_ms * static_cast<double>(pages.size());
}

std::optional<Prediction> move(SimulatedGuest& guest, RoundFacts facts) {
  std::vector<std::size_t> pending(guest.pages());
  for (std::size_t page = 0; page < pending.size(); ++page) pending[page] = page;
  std::vector<Round> rounds;
  for (;;) {
    facts.last_round_ms = send(guest, pending, facts.bytes_per_ms);
    facts.elapsed_ms += facts.last_round_ms;
    const std::size_t sent = pending.size();
    pending = guest.dirty();
    facts.dirty_bytes = pending.size() * memory::kPageSize;
    rounds.push_back({sent, sent * memory::kPageSize, facts.last_round_ms, pending.size()});
    facts.rounds = rounds;
    add_round(facts);
    const Verdict verdict = decide(facts);
    if (verdict.action == Verdict::Action::kSwitchOver) {
      const double downtime_ms =
          facts.fixed_ms + static_cast<double>(pending.size()) * kPage / facts.bytes_per_ms;
      return Prediction{.total_ms = facts.elapsed_ms + downtime_ms,
                        .downtime_ms = downtime_ms,
                        .rounds = static_cast<unsigned>(rounds.size())};
    }
    if (verdict.action != Verdict::Action::kGoOn) return std::nullopt;
  }
}

DirtyCurve measure(SimulatedGuest& guest) {
  DirtyCurve curve;
  guest.clean_all();
  double ran = 0;
  for (double ms = 1; ms <= 512; ms *= 2) {
    guest.run(ms - ran);
    ran = ms;
    curve.add(ms, static_cast<double>(guest.dirty().size()) * kPage);
  }
  return curve;
}

struct Case {
  SimulatedGuest::Habits habits;
  RoundFacts facts;
};

/// From one that does nothing to one that outruns its link, on links of 1 to 10 Gbit/s.
Case random_case(std::mt19937& random) {
  const auto between = [&](double low, double high) {  // every order of magnitude as likely
    return low * std::pow(high / low, std::uniform_real_distribution<double>(0, 1)(random));
  };
  Case one;
  one.facts.bytes_per_ms = one.facts.unheld_per_ms = between(125'000, 1'250'000);
  const double link = one.facts.bytes_per_ms / kPage;  // pages a millisecond
  one.habits.pages = static_cast<std::size_t>(between(4096, 32768));
  one.habits.hot =
      static_cast<std::size_t>(between(64, static_cast<double>(one.habits.pages) * 0.9));
  one.habits.hot_per_ms = between(link / 30, link * 10);
  one.habits.stream_per_ms = between(link / 1000, link);
  one.facts.dirty_bytes = one.habits.pages * memory::kPageSize;
  one.facts.data_bytes = static_cast<double>(one.facts.dirty_bytes);
  one.facts.fixed_ms = 8;
  one.facts.downtime_limit_ms = 50;
  one.facts.timeout_ms = 10'000;
  return one;
}

/// Which of many random guests are foretold how well.
struct Score {
  int completed = 0;  // in the prediction and in truth
  int stayed = 0;
  int mistaken = 0;     // one of the two
  int total_close = 0;  // of `completed`: within a quarter
  int total_near = 0;   // within a factor of two
  int downtime_near = 0;
};

bool within(double a, double b, double factor) { return a < b * factor && b < a * factor; }

Score score(int cases, const std::function<DirtyCurve(const DirtyCurve&)>& seen) {
  std::mt19937 random(11);
  Score result;
  for (int i = 0; i < cases; ++i) {
    const Case one = random_case(random);
    SimulatedGuest guest(one.habits, static_cast<unsigned>(random()));
    guest.run(1000);
    const auto predicted = predict(one.facts, seen(measure(guest))).end;
    const auto moved = move(guest, one.facts);
    if (predicted.has_value() != moved.has_value()) ++result.mistaken;
    if (!predicted && !moved) ++result.stayed;
    if (!predicted || !moved) continue;
    ++result.completed;
    EXPECT_LE(predicted->downtime_ms, one.facts.downtime_limit_ms);
    result.total_close += within(predicted->total_ms, moved->total_ms, 1.25) ? 1 : 0;
    result.total_near += within(predicted->total_ms, moved->total_ms, 2) ? 1 : 0;
    result.downtime_near += within(predicted->downtime_ms, moved->downtime_ms, 2) ? 1 : 0;
  }
  return result;
}

// Where it is wrong the guest is on the verge: one round more or less.
TEST(Prediction, OfADryRunIsBorneOutByTheMoveAndBetterThanThatOfOneSample) {
  constexpr int kCases = 100;
  const Score with = score(kCases, [](const DirtyCurve& curve) { return curve; });
  EXPECT_GT(with.completed, kCases / 2);
  EXPECT_GT(with.stayed, kCases / 20);
  EXPECT_LT(with.mistaken, kCases / 20);
  EXPECT_GT(with.total_close, with.completed * 90 / 100);
  EXPECT_GT(with.total_near, with.completed * 97 / 100);
  EXPECT_GT(with.downtime_near, with.completed * 90 / 100);
  for (const bool first : {false, true}) {
    const Score without = score(kCases, [&](const DirtyCurve& curve) {
      DirtyCurve one;
      const auto& point = first ? curve.points().front() : curve.points().back();
      one.add(point.ms, point.bytes);
      return one;
    });
    EXPECT_LT(with.mistaken, without.mistaken);
    EXPECT_GT(with.total_close, without.total_close);
    EXPECT_GT(with.downtime_near, without.downtime_near);
  }
}

}  // namespace
}  // namespace godwit::migration
