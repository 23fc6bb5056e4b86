#include "migration/convergence.h"

#include <gtest/gtest.h>

#include <string>
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

TEST(Convergence, TwoRoundsThatTellOfASetWrittenAgainAndAgainDoNotConverge) {
  RoundFacts now = facts();
  std::vector<Round> rounds = {{24'414, 100'000'000, 1000, 2'441}};
  now.rounds = rounds;
  now.last_round_ms = 1000;
  add_round(now);
  EXPECT_TRUE(will_converge(now)) << "one sample is no curve";
  rounds.push_back({2'441, 10'000'000, 100, 1'900});  // nearly as much in a tenth of the time
  now.rounds = rounds;
  now.last_round_ms = 100;
  now.dirty_bytes = 7'800'000;
  add_round(now);
  EXPECT_FALSE(will_converge(now));
  now.downtime_limit_ms = 100;  // which it fits
  EXPECT_TRUE(will_converge(now));
}

TEST(Convergence, ARoundThatWouldLeaveAsMuchDoesNotPayHoweverShort) {
  RoundFacts now = facts();
  now.dirty_bytes = 1'000'000;  // 10 ms
  EXPECT_EQ(decide(now).action, Action::kGoOn);
  now.curve.add(100, 1'000'000);
  now.curve.add(5, 900'000);
  EXPECT_EQ(decide(now).action, Action::kSwitchOver);
}

TEST(DirtyCurve, GoesThroughItsPointsAndOnAsTheyDo) {
  DirtyCurve curve;
  EXPECT_EQ(curve.after(10), 0);
  curve.add(1, 100);
  EXPECT_DOUBLE_EQ(curve.after(3), 300) << "one sample: evenly";
  for (const double ms : {2.0, 4.0, 8.0}) curve.add(ms, 100 * ms);
  for (const double ms : {0.1, 1.0, 3.0, 8.0, 100.0}) EXPECT_NEAR(curve.after(ms), 100 * ms, 1e-6);
  DirtyCurve hot;
  for (const double ms : {1.0, 2.0, 4.0, 8.0}) hot.add(ms, 500);
  for (const double ms : {0.1, 1.0, 3.0, 8.0, 100.0}) EXPECT_NEAR(hot.after(ms), 500, 1e-6);
}

TEST(DirtyCurve, BelievesTheNewestOfPointsThatDoNotGoTogether) {
  DirtyCurve curve;
  curve.add(100, 500);
  curve.add(10, 50);
  curve.add(11, 80);   // about as long
  curve.add(50, 600);  // the guest has become busier than in the longer time
  ASSERT_EQ(curve.points().size(), 2u);
  EXPECT_EQ(curve.points()[0].bytes, 80);
  EXPECT_EQ(curve.points()[1].bytes, 600);
  curve.add(5, 700);
  ASSERT_EQ(curve.points().size(), 1u);
  curve.add(0, 5);  // says nothing
  EXPECT_FALSE(curve.known());
  EXPECT_DOUBLE_EQ(curve.after(10), 1400);
}

DirtyCurve even(double bytes_per_ms) {
  DirtyCurve curve;
  curve.add(1000, bytes_per_ms * 1000);
  return curve;
}

TEST(Prediction, AddsUpTheRoundsToCome) {
  RoundFacts now = facts();
  const std::vector<Round> first = {{24'414, 100'000'000, 1000, 2'441}};
  now.rounds = first;
  const auto prediction = predict(now, even(10'000)).end;
  ASSERT_TRUE(prediction);
  // 100 ms; as it sends all that the guest writes, what is dirty then was written in half of it: 5
  // ms; and nearly 0.5 ms of the pause.
  EXPECT_NEAR(prediction->downtime_ms, 10.5, 0.1);
  EXPECT_NEAR(prediction->total_ms, 1000 + 100 + 5 + 10.5, 0.2);
  EXPECT_EQ(prediction->rounds, 3u);
  now.dirty_bytes = 0;
  EXPECT_EQ(predict(now, even(10'000)).end->total_ms, 1010);
}

TEST(Prediction, OfAMoveThatHasNotBegunCountsItsFirstRound) {
  RoundFacts now = facts();
  now.dirty_bytes = 100'000'000;
  now.elapsed_ms = 50;
  const auto prediction = predict(now, {}).end;  // the guest writes nothing
  ASSERT_TRUE(prediction);
  EXPECT_EQ(prediction->rounds, 1u);
  EXPECT_NEAR(prediction->total_ms, 50 + 1000 + 10, 0.1);
  EXPECT_EQ(prediction->downtime_ms, 10);
}

TEST(OutOfTime, BlamesTheLinkUntilARoundIsDoneAndTheGuestAfterwards) {
  RoundFacts now = facts();
  now.rounds = {};
  now.elapsed_ms = 3000;
  now.dirty_bytes = 64 << 20;
  now.bytes_per_ms = now.unheld_per_ms = 1 << 10;
  EXPECT_EQ(
      out_of_time(now),
      "its time is up after 3 s: 64 MiB of round 1 are left, of which 1.0 MiB go in a second; "
      "raise --timeout");
  now.unheld_per_ms = 2 << 10;
  EXPECT_NE(out_of_time(now).find("--timeout or --max-bandwidth"), std::string::npos);
  now.bytes_per_ms = 0;
  EXPECT_NE(out_of_time(now).find(" 0.0 MiB"), std::string::npos) << out_of_time(now);
  const std::vector<Round> one = {{2'441, 10'000'000, 100, 2'441}};
  now.rounds = one;
  EXPECT_NE(out_of_time(now).find("dirties its memory too fast"), std::string::npos);
  now.dirty_bytes = 0;  // nearly done with the round: there is as much again
  EXPECT_NE(out_of_time(now).find("dirties its memory too fast"), std::string::npos);
  const std::vector<Round> calm = {{2'441, 10'000'000, 100, 1}};
  now.rounds = calm;
  EXPECT_NE(out_of_time(now).find("its time is up after 3 s: 0 MiB of round 2"), std::string::npos)
      << out_of_time(now);
}

TEST(Prediction, SaysNothingOfAMoveThatWouldNotEndSo) {
  RoundFacts now = facts();  // dirties twice as fast as the link carries
  const DirtyCurve guest = even(200'000);
  const std::vector<Round> first = {{2'441, 10'000'000, 100, 2'441}};
  now.rounds = first;
  const Forecast never = predict(now, guest);
  EXPECT_FALSE(never.end) << "it would be given up";
  EXPECT_NE(never.why_not.find("too fast"), std::string::npos) << never.why_not;
  now.timeout_ms = 0;
  EXPECT_FALSE(predict(now, guest).end) << "it would go on for ever";
  now.may_post_copy = true;
  const auto followed = predict(now, guest).end;
  ASSERT_TRUE(followed);
  EXPECT_TRUE(followed->post_copy);
  // What it writes in its last 20 ms goes along, as far as the limit has room for it.
  EXPECT_NEAR(followed->downtime_ms, 10 + 20 * 2, 0.1);
  now.downtime_limit_ms = 30;
  EXPECT_NEAR(predict(now, guest).end->downtime_ms, 30, 0.1);
  now.downtime_limit_ms = 1;  // 64 pages go in any case
  EXPECT_NEAR(predict(now, guest).end->downtime_ms, 10 + 64 * 4096 / now.unheld_per_ms, 0.1);
  // What follows is not compressed, as the rounds are.
  const double rest_ms = static_cast<double>(now.dirty_bytes) / now.bytes_per_ms;
  const double before_ms = predict(now, guest).end->total_ms;
  now.wire_share = 0.5;
  EXPECT_NEAR(predict(now, guest).end->total_ms, before_ms + rest_ms, 0.1);
  now = facts();
  now.timeout_ms = 0;
  now.rounds = first;
  now.may_post_copy = false;
  now.max_throttle = 90;
  const auto throttled = predict(now, guest).end;
  ASSERT_TRUE(throttled);
  EXPECT_LE(throttled->downtime_ms, now.downtime_limit_ms);
  EXPECT_GE(throttled->throttle, 60u);
}

TEST(Remedies, AreTheOptionsWithWhichItWouldEnd) {
  RoundFacts now = facts();
  now.dirty_bytes = 200'000'000;
  now.data_bytes = 200'000'000;
  DirtyCurve guest;  // 20 MB that are written all the time
  guest.add(1, 20'000'000);
  guest.add(512, 20'000'000);
  ASSERT_FALSE(predict(now, guest).end);
  std::vector<std::string> options;
  for (const Remedy& remedy : remedies(now, guest)) options.push_back(remedy.option);
  EXPECT_EQ(options, (std::vector<std::string>{"--mode hybrid", "--downtime-limit 400ms"}));
  now.timeout_ms = 1000;  // where it is only slow
  EXPECT_EQ(remedies(now, even(50'000)).back().option, "--timeout 6s");
}

}  // namespace
}  // namespace godwit::migration
