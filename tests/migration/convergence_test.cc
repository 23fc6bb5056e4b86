#include "migration/convergence.h"

#include <gtest/gtest.h>

#include <vector>

namespace godwit::migration {
namespace {

using Action = Verdict::Action;

RoundFacts facts() {
  return {.dirty_bytes = 10'000'000,
          .bytes_per_ms = 100'000,
          .unheld_per_ms = 100'000,
          .fixed_ms = 10,
          .downtime_limit_ms = 50,
          .last_round_ms = 100,
          .elapsed_ms = 1000,
          .timeout_ms = 60000};
}

TEST(Convergence, GoesOnWhileThePredictedDowntimeIsOverTheLimit) {
  const Verdict verdict = decide(facts());
  EXPECT_EQ(verdict.action, Action::kGoOn);
  EXPECT_DOUBLE_EQ(verdict.predicted_downtime_ms, 110);
}

TEST(Convergence, SwitchesOverOnceItFits) {
  RoundFacts now = facts();
  now.dirty_bytes = 4'000'000;
  EXPECT_EQ(decide(now).action, Action::kSwitchOver);
  now.dirty_bytes = 4'000'001;
  EXPECT_EQ(decide(now).action, Action::kGoOn);
}

TEST(Convergence, GoesOnWhereAShortRoundSavesMostOfTheDowntime) {
  RoundFacts now = facts();
  now.dirty_bytes = 1'000'000;  // 10 ms
  EXPECT_EQ(decide(now).action, Action::kGoOn);
  now.last_round_ms = 39;  // as much would be dirty again
  EXPECT_EQ(decide(now).action, Action::kSwitchOver);
  now.last_round_ms = 100;
  now.elapsed_ms = 99;  // not short beside the move
  EXPECT_EQ(decide(now).action, Action::kSwitchOver);
  now.elapsed_ms = 1000;
  now.dirty_bytes = 250'000;  // 2.5 ms of 12.5: nothing to gain
  EXPECT_EQ(decide(now).action, Action::kSwitchOver);
}

TEST(Convergence, TheLastRoundIsNotHeldBackAndSoNeitherIsItsPrediction) {
  RoundFacts now = facts();
  now.dirty_bytes = 4'000'000;
  now.bytes_per_ms = 5'000;  // a round of 800 ms
  const Verdict verdict = decide(now);
  EXPECT_DOUBLE_EQ(verdict.predicted_downtime_ms, 50);
  EXPECT_EQ(verdict.action, Action::kSwitchOver);
  now.unheld_per_ms = now.bytes_per_ms;
  EXPECT_EQ(decide(now).action, Action::kGoOn);
}

TEST(Convergence, SwitchesOverWhenNothingIsLeftWhateverTheLimit) {
  RoundFacts now = facts();
  now.dirty_bytes = 0;
  now.downtime_limit_ms = 0;
  EXPECT_EQ(decide(now).action, Action::kSwitchOver);
}

TEST(Convergence, GivesUpAtTheTimeoutWithTheNumbers) {
  RoundFacts now = facts();
  now.elapsed_ms = 60000;
  const Verdict verdict = decide(now);
  EXPECT_EQ(verdict.action, Action::kGiveUp);
  EXPECT_NE(verdict.why.find("110 ms"), std::string::npos) << verdict.why;
  now.timeout_ms = 0;
  EXPECT_EQ(decide(now).action, Action::kGoOn);
}

/// Two rounds, each sending 1000 pages, after which that many were dirty.
std::vector<Round> rounds_with(std::uint64_t first, std::uint64_t second) {
  return {{1000, 4'096'000, 40, first}, {1000, 4'096'000, 40, second}};
}

TEST(Convergence, RoundsThatDoNotShrinkDoNotConverge) {
  RoundFacts now = facts();
  const auto stalled = rounds_with(900, 1000);
  now.rounds = stalled;
  EXPECT_FALSE(will_converge(now));
  const auto once = rounds_with(500, 1000);  // one bad round is no curve
  now.rounds = once;
  EXPECT_TRUE(will_converge(now));
  now.rounds = std::span(stalled).last(1);
  EXPECT_TRUE(will_converge(now));
}

TEST(Convergence, RoundsThatShrinkTooSlowlyForTheTimeoutDoNotConverge) {
  RoundFacts now = facts();
  const auto slow = rounds_with(750, 750);
  now.rounds = slow;
  now.dirty_bytes = 2'000'000'000;  // 20 s, and three quarters of that, and so on: 80 s
  EXPECT_FALSE(will_converge(now));
  now.timeout_ms = 100'000;
  EXPECT_TRUE(will_converge(now));
  now.timeout_ms = 0;
  EXPECT_TRUE(will_converge(now));
}

TEST(Convergence, ThrottlesStepByStepOnlyWhereItIsAllowedAndNeeded) {
  RoundFacts now = facts();
  const auto stalled = rounds_with(1000, 1000);
  now.rounds = stalled;
  EXPECT_EQ(decide(now).throttle, 0u);
  now.max_throttle = 50;
  for (const unsigned expected : {20u, 40u, 50u, 50u}) {
    now.throttled = decide(now).throttle;
    EXPECT_EQ(now.throttled, expected);
  }
  const auto better = rounds_with(1000, 500);
  now.rounds = better;
  EXPECT_EQ(decide(now).throttle, 50u) << "it is not released before the end";
}

TEST(Convergence, WhatDoesNotConvergeGoesByPostCopyWhereItMay) {
  RoundFacts now = facts();
  const std::vector<Round> hopeless = {{1000, 4'096'000, 100, 900}};
  now.rounds = hopeless;
  EXPECT_EQ(decide(now).action, Action::kGoOn);
  now.may_post_copy = true;
  EXPECT_EQ(decide(now).action, Action::kPostCopy) << "after the first round";
  now.max_throttle = 40;
  EXPECT_EQ(decide(now).action, Action::kGoOn) << "it may be throttled first";
  now.throttled = 40;
  EXPECT_EQ(decide(now).action, Action::kPostCopy);
  const std::vector<Round> good = {{1000, 4'096'000, 100, 500}, {500, 2'048'000, 50, 200}};
  now.rounds = good;
  EXPECT_EQ(decide(now).action, Action::kGoOn);
  now.dirty_bytes = 0;
  EXPECT_EQ(decide(now).action, Action::kSwitchOver);
}

TEST(Convergence, AnUnknownRateIsNoReasonToSwitchOver) {
  RoundFacts now = facts();
  now.bytes_per_ms = now.unheld_per_ms = 0;
  EXPECT_EQ(decide(now).action, Action::kGoOn);
}

TEST(Prediction, AddsUpTheRoundsToCome) {
  RoundFacts now = facts();
  now.last_round_ms = 1000;  // so a round leaves a tenth of what it sent
  const std::vector<Round> first = {{24'414, 100'000'000, 1000, 2'441}};
  now.rounds = first;
  const auto prediction = predict(now);
  ASSERT_TRUE(prediction);
  EXPECT_NEAR(prediction->downtime_ms, 10 + 1, 0.1);  // 100 ms, 10 ms, and 1 ms while it stands
  EXPECT_NEAR(prediction->total_ms, 1000 + 100 + 10 + 11, 0.2);
  now.dirty_bytes = 0;
  EXPECT_EQ(predict(now)->total_ms, 1010);
}

TEST(Prediction, SaysNothingOfAMoveThatWouldNotEndSo) {
  RoundFacts now = facts();  // dirties as fast as the link carries
  const std::vector<Round> first = {{2'441, 10'000'000, 100, 2'441}};
  now.rounds = first;
  EXPECT_FALSE(predict(now)) << "it would be given up";
  now.timeout_ms = 0;
  EXPECT_FALSE(predict(now)) << "it would go on for ever";
  now.may_post_copy = true;
  EXPECT_FALSE(predict(now));
  now.may_post_copy = false;
  now.max_throttle = 90;
  const auto throttled = predict(now);
  ASSERT_TRUE(throttled);
  EXPECT_LE(throttled->downtime_ms, now.downtime_limit_ms);
}

}  // namespace
}  // namespace godwit::migration
