// Forecast, detection, cost, damping and the policy file.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "balancer/cost.h"
#include "balancer/damping.h"
#include "balancer/detection.h"
#include "balancer/forecast.h"
#include "balancer/offers.h"
#include "balancer/policy.h"
#include "balancer/rules.h"

namespace godwit::balancer {
namespace {

TEST(LoadEstimator, FindsTheMeanAndSpreadOfAnAlternatingLoad) {
  PolicyConfig policy;
  policy.trend_share = 0;
  LoadEstimator estimator;
  for (int i = 0; i < 2000; ++i) estimator.add(i % 2 == 0 ? 100 : 300, policy);
  const Forecast forecast = estimator.forecast(1000, policy);
  EXPECT_NEAR(forecast.mean, 200, 10);
  EXPECT_NEAR(std::sqrt(forecast.variance), 100, 5);
}

TEST(LoadEstimator, ASpikeMovesTheForecastLittleALevelMovesItAll) {
  const PolicyConfig policy = default_policy(Goal::kConsolidate);
  LoadEstimator estimator;
  for (int i = 0; i < 100; ++i) estimator.add(100, policy);
  estimator.add(1000, policy);
  EXPECT_LT(estimator.forecast(1000, policy).mean, 400);
  for (int i = 0; i < 100; ++i) estimator.add(1000, policy);
  EXPECT_NEAR(estimator.forecast(1000, policy).mean, 1000, 1);
}

TEST(LoadEstimator, TakesNonsenseAsNothing) {
  const PolicyConfig policy;
  LoadEstimator estimator;
  for (const double sample : {std::nan(""), std::numeric_limits<double>::infinity(), -5.0}) {
    estimator.add(sample, policy);
  }
  EXPECT_EQ(estimator.forecast(100, policy).mean, 0);
}

TEST(ExpectedExcess, IsThatOfTheNormalDistribution) {
  EXPECT_DOUBLE_EQ(expected_excess({120, 0}, 100), 20);
  EXPECT_DOUBLE_EQ(expected_excess({80, 0}, 100), 0);
  EXPECT_NEAR(expected_excess({100, 100}, 100), 10 / std::sqrt(2 * 3.141592653589793), 1e-9);
}

TEST(OverloadDetector, NeedsKOfNAndTheForecastAndHasHysteresis) {
  PolicyConfig policy;
  policy.hot = 0.9, policy.cool = 0.7, policy.hot_forecast = 0.8, policy.hot_k = 2,
  policy.hot_n = 3;
  OverloadDetector detector;
  EXPECT_FALSE(detector.add(95, {90, 0}, 100, policy));  // one sample is none
  EXPECT_FALSE(detector.add(50, {90, 0}, 100, policy));
  EXPECT_FALSE(detector.add(50, {90, 0}, 100, policy));
  EXPECT_FALSE(detector.add(95, {70, 0}, 100, policy));
  EXPECT_FALSE(detector.add(95, {70, 0}, 100, policy));  // two, but not expected to last
  EXPECT_TRUE(detector.add(95, {85, 0}, 100, policy));
  EXPECT_TRUE(detector.add(80, {75, 0}, 100, policy));  // between the marks: still hot
  EXPECT_FALSE(detector.add(80, {65, 0}, 100, policy));
}

TEST(MoveCost, GrowsWithMemoryAndDirtyRateAndEndsForAGuestThatNeverConverges) {
  GuestView guest;
  guest.demand = 100;
  guest.memory = 1000;
  const MoveCost quiet = predict_move(guest, 100);
  EXPECT_NEAR(quiet.seconds, 10, 0.2);
  guest.dirty_rate = 50;
  const MoveCost busy = predict_move(guest, 100);
  EXPECT_NEAR(busy.seconds, 20, 0.5);
  EXPECT_GT(busy.work, quiet.work);
  guest.dirty_rate = 1000;
  const MoveCost frantic = predict_move(guest, 100);
  EXPECT_NEAR(frantic.seconds, 40, 1);
  EXPECT_NEAR(frantic.downtime, 10, 0.1);
}

TEST(Rules, AGuestTakesUpWhatItWasGivenAndCopiesWhatItUses) {
  GuestView guest;
  guest.memory = 100;
  guest.given = 400;
  HostView host;
  host.capacity = 1000;
  host.memory = 1000;
  host.memory_used = 601;
  EXPECT_FALSE(allowed(guest, host));
  host.memory_used = 600;
  EXPECT_TRUE(allowed(guest, host));
  charge(host, guest, 1);
  EXPECT_EQ(host.memory_used, 1000);
  GuestView whole = guest;
  whole.memory = 400;
  EXPECT_LT(predict_move(guest, 100).seconds, predict_move(whole, 100).seconds / 3);
}

TEST(Cooldown, DoublesWithEveryRecentMoveUpToSixtyFourFold) {
  PolicyConfig policy;
  policy.cooldown_seconds = 10;
  GuestView guest;
  const double expected[] = {10, 10, 20, 40, 80, 160, 320, 640, 640, 640};
  for (guest.recent_moves = 0; guest.recent_moves < 10; ++guest.recent_moves) {
    EXPECT_EQ(cooldown(guest, policy), expected[guest.recent_moves]);
  }
}

TEST(PolicyFile, KeepsTheGoalsDefaultsAndSurvivesARoundTrip) {
  const PolicyConfig config = parse_policy(R"({"goal": "consolidate", "hot": 0.95, "hot_k": 3})");
  EXPECT_EQ(config.hot, 0.95);
  EXPECT_EQ(config.hot_k, 3);
  EXPECT_EQ(config.fill, default_policy(Goal::kConsolidate).fill);
  EXPECT_EQ(to_json(parse_policy(to_json(config))), to_json(config));
}

TEST(PolicyFile, RefusesWhatItDoesNotUnderstand) {
  for (const char* bad :
       {"", "[]", "{", R"({"hott": 1})", R"({"hot": "1"})", R"({"hot": 100})", R"({"hot_k": 1.5})",
        R"({"hot_k": 4, "hot_n": 3})", R"({"goal": "win"})", R"({"cool": 1.0, "hot": 0.9})",
        R"({"peers_asked": 0})", R"({"fill": 1e999})", R"({"hot_k": 99999999999999999999})"}) {
    EXPECT_THROW(parse_policy(bad), std::runtime_error) << bad;
  }
}

TEST(Offers, AreTheSmallestAndTheMostErraticOfThoseThatMayMove) {
  const PolicyConfig policy;
  std::vector<GuestView> guests(8);
  for (std::size_t i = 0; i < guests.size(); ++i) {
    guests[i].id = i + 1;
    guests[i].forecast = {100.0 * static_cast<double>(i + 1), 10};
  }
  guests[0].pinned = true;
  guests[1].keep_together = 3;
  guests[2].last_move = 999;
  guests[5].forecast.variance = 500;
  guests[7].forecast.variance = 300;
  std::vector<GuestId> offered;
  for (const GuestView& guest : offers(guests, 1000, policy)) offered.push_back(guest.id);
  EXPECT_EQ(offered, (std::vector<GuestId>{4, 5, 6, 8}));
  EXPECT_TRUE(offers({}, 1000, policy).empty());
  guests.resize(4);
  EXPECT_EQ(offers(guests, 1000, policy).size(), 1u);
}

TEST(Patience, IsLessTheMoreIsGainedForEachGuest) {
  const PolicyConfig policy;
  Decision move;
  move.cause = Cause::kImbalance;
  move.action = Action::kMove;
  EXPECT_EQ(patience(move, 1000, policy), 1);
  move.benefit = 1e5;
  const double alone = patience(move, 1000, policy);
  EXPECT_GT(alone, 0);
  EXPECT_LT(alone, 1);
  move.action = Action::kSwap;
  EXPECT_DOUBLE_EQ(patience(move, 1000, policy), 2 * alone);
  move.cause = Cause::kOverload;  // hosts that are overloaded by one cause must not act at one time
  EXPECT_EQ(patience(move, 1000, policy), 1);
}

}  // namespace
}  // namespace godwit::balancer
