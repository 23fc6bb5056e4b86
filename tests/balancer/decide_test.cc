// The decision in the cases people complain about; property_test.cc has random ones.
#include "balancer/decide.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>

namespace godwit::balancer {
namespace {

bool moves(const Decision& decision) {
  return decision.action == Action::kMove || decision.action == Action::kSwap;
}

HostView plain_host(HostId id, double load) {
  HostView host;
  host.id = id;
  host.capacity = 1000;
  host.forecast = {1000 * load, 0};
  host.demand = 1000 * load;
  host.link = 1000;
  host.guests = 5;
  for (std::size_t i = 0; i < 11; ++i) host.power.watts[i] = 100 + 5 * static_cast<double>(i);
  return host;
}

// A host with `count` equal guests that add up to `load`.
ClusterView plain_view(double load, std::size_t count, std::vector<HostView> peers) {
  ClusterView view;
  view.now = 1e6;
  view.self = plain_host(0, load);
  view.self.guests = count;
  for (GuestId id = 1; id <= count; ++id) {
    GuestView guest;
    guest.id = id;
    guest.demand = guest.forecast.mean = 1000 * load / static_cast<double>(count);
    guest.most = 1000;
    guest.memory = 100;
    view.guests.push_back(guest);
  }
  view.peers = std::move(peers);
  return view;
}

TEST(Decide, RelievesAHotHostOntoOneWithRoom) {
  ClusterView view = plain_view(1.2, 6, {plain_host(1, 0.85), plain_host(2, 0.3)});
  view.hot = true;
  const auto decisions = decide(view, default_policy(Goal::kBalance));
  ASSERT_TRUE(moves(decisions.front()));
  EXPECT_EQ(decisions.front().target, 2u);
  EXPECT_EQ(decisions.front().cause, Cause::kOverload);
  EXPECT_GT(decisions.front().benefit, decisions.front().cost);
}

TEST(Decide, PredictsByWhatMovesToAPeerWereSeenToTake) {
  const auto prediction = [](double path, double setup) {
    HostView peer = plain_host(1, 0.3);
    peer.path = path;
    peer.setup = setup;
    ClusterView view = plain_view(1.2, 4, {peer});
    view.hot = true;
    return decide(view, default_policy(Goal::kBalance)).front();
  };
  const Decision by_link = prediction(0, 0);
  EXPECT_NEAR(prediction(0, 1.5).seconds, by_link.seconds + 1.5, 1e-9);
  EXPECT_EQ(prediction(0, 1.5).cost, by_link.cost);  // the guest runs at full speed meanwhile
  EXPECT_GT(prediction(50, 0).seconds, 5 * by_link.seconds);
  EXPECT_LT(prediction(5000, 0).seconds, by_link.seconds);  // than "link" says, too
}

TEST(Decide, RefusesWithAReasonWhenEveryPeerIsFull) {
  ClusterView view = plain_view(1.2, 6, {plain_host(1, 0.89), plain_host(2, 0.9)});
  view.hot = true;
  const auto decisions = decide(view, default_policy(Goal::kBalance));
  ASSERT_EQ(decisions.size(), 1u);
  EXPECT_EQ(decisions[0].action, Action::kRefuse);
  EXPECT_EQ(decisions[0].obstacle, Obstacle::kNoTarget);
}

TEST(Decide, SwapsWhenNothingFitsAlone) {
  ClusterView view =
      plain_view(1.2, 2, {plain_host(1, 0.6)});  // guests of 600: 0.6 + 0.6 is too much
  view.hot = true;
  GuestView offer;
  offer.id = 77;
  offer.demand = offer.forecast.mean = 350;
  offer.most = 1000;
  offer.memory = 100;
  view.peers[0].offers.push_back(offer);
  const auto decisions = decide(view, default_policy(Goal::kBalance));
  ASSERT_EQ(decisions.front().action, Action::kSwap);
  EXPECT_EQ(decisions.front().partner, 77u);
}

TEST(Decide, ASwapCountsAgainstTheLimitsOfBothHostsBothWays) {
  ClusterView view = plain_view(1.2, 2, {plain_host(1, 0.6)});
  view.hot = true;
  GuestView offer = view.guests[0];
  offer.id = 77;
  offer.demand = offer.forecast.mean = 350;
  view.peers[0].offers.push_back(offer);
  PolicyConfig policy = default_policy(Goal::kBalance);
  policy.moves_per_round = 2;
  ASSERT_EQ(decide(view, policy).front().action, Action::kSwap);
  view.self.incoming = policy.incoming_limit;
  EXPECT_EQ(decide(view, policy).front().action, Action::kRefuse);
  view.self.incoming = 0;
  view.peers[0].outgoing = policy.outgoing_limit;
  EXPECT_EQ(decide(view, policy).front().action, Action::kRefuse);
  // Another of the same kind: the first swap leaves no room among the moves in flight.
  view.peers[0].outgoing = policy.outgoing_limit - 1;
  view.self.incoming = policy.incoming_limit - 1;
  view.peers.push_back(view.peers[0]);
  view.peers[1].id = 2;
  view.peers[1].offers[0].id = 78;
  view.self = plain_host(0, 1.8);
  view.self.incoming = policy.incoming_limit - 1;
  view.guests.push_back(view.guests[0]);
  view.guests[2].id = 3;
  const auto swaps = [&] {
    const auto decisions = decide(view, policy);
    return std::count_if(decisions.begin(), decisions.end(),
                         [](const Decision& decision) { return decision.action == Action::kSwap; });
  };
  EXPECT_EQ(swaps(), 1);
  view.self.incoming = 0;
  EXPECT_EQ(swaps(), 2);
}

TEST(Decide, EvensOutLoadsNotSquares) {
  // By plain squares nothing may leave a large host for a small one.
  ClusterView view = plain_view(0.6, 20, {plain_host(1, 0.3)});
  view.self.capacity = 4000;
  view.self.forecast.mean = view.self.demand = 2400;
  for (GuestView& guest : view.guests) guest.demand = guest.forecast.mean = 120;
  PolicyConfig policy = default_policy(Goal::kBalance);
  policy.deadband = 0;
  EXPECT_TRUE(moves(decide(view, policy).front()));
}

TEST(Decide, TheNewestSampleCountsByItsShare) {
  ClusterView view = plain_view(0.5, 5, {plain_host(1, 0.5)});
  view.self.demand = 1200;  // for one sample
  for (GuestView& guest : view.guests) guest.demand = 240;
  PolicyConfig policy = default_policy(Goal::kBalance);
  EXPECT_TRUE(moves(decide(view, policy).front()));
  policy.sample_share = 0.33 / 300;  // a live node's, of a second
  EXPECT_FALSE(moves(decide(view, policy).front()));
}

TEST(Decide, TheMostErraticGuestsGoToTheLargerHost) {
  ClusterView view = plain_view(0.55, 11, {plain_host(1, 0.5)});
  view.peers[0].capacity = 4000;
  view.peers[0].forecast.mean = view.peers[0].demand = 2000;
  view.guests[4].forecast.variance = 100 * 100;
  const auto decisions = decide(view, default_policy(Goal::kBalance));
  ASSERT_TRUE(moves(decisions.front()));
  EXPECT_EQ(decisions.front().guest, view.guests[4].id);
}

TEST(Decide, ExchangesWhereNoMoveAloneEvensOut) {
  // The only guest that may go, of 400, would make the other host as uneven as this one is.
  ClusterView view = plain_view(0.7, 2, {plain_host(1, 0.3)});
  view.guests[0].demand = view.guests[0].forecast.mean = 400;
  view.guests[1].demand = view.guests[1].forecast.mean = 300;
  view.guests[1].pinned = true;
  GuestView offer = view.guests[0];
  offer.id = 77;
  offer.demand = offer.forecast.mean = 200;
  view.peers[0].offers.push_back(offer);
  const PolicyConfig policy = default_policy(Goal::kBalance);
  const auto decisions = decide(view, policy);
  ASSERT_EQ(decisions.front().action, Action::kSwap);
  EXPECT_EQ(decisions.front().guest, 1u);
  EXPECT_EQ(decisions.front().partner, 77u);
  EXPECT_EQ(decisions.front().cause, Cause::kImbalance);
  EXPECT_NEAR(decisions.front().source_after, 0.5, 1e-9);
  EXPECT_NEAR(decisions.front().target_after, 0.5, 1e-9);
  view.peers.push_back(plain_host(2, 0.5));  // which says that it has that guest
  view.peers[1].offers.push_back(offer);
  EXPECT_FALSE(moves(decide(view, policy).front()));
}

TEST(Decide, SaysWhyNothingEvensOutTheLoad) {
  PolicyConfig policy = default_policy(Goal::kBalance);
  const auto obstacle = [&](const ClusterView& view) {
    const auto decisions = decide(view, policy);
    EXPECT_EQ(decisions.size(), 1u);
    EXPECT_EQ(decisions[0].action, Action::kStay);
    return decisions[0].obstacle;
  };
  const ClusterView uneven = plain_view(0.8, 4, {plain_host(1, 0.2)});
  ASSERT_TRUE(moves(decide(uneven, policy).front()));

  EXPECT_EQ(obstacle(plain_view(0.5, 4, {plain_host(1, 0.49)})), Obstacle::kBalanced);
  ClusterView even = plain_view(0.5, 4, {plain_host(1, 0.49)});
  for (GuestView& guest : even.guests) guest.last_move = even.now;
  EXPECT_EQ(obstacle(even), Obstacle::kBalanced) << "nothing to gain from guests that rest, either";
  even.peers[0].incoming = policy.incoming_limit;
  EXPECT_EQ(obstacle(even), Obstacle::kBalanced) << "no room is wanted";

  ClusterView resting = uneven;
  for (GuestView& guest : resting.guests) guest.last_move = resting.now;
  EXPECT_EQ(obstacle(resting), Obstacle::kCoolingDown);
  resting.peers[0].memory = resting.peers[0].memory_used = 100;
  EXPECT_EQ(obstacle(resting), Obstacle::kNoTarget) << "nor could they move if they had rested";

  ClusterView pinned = uneven;
  for (GuestView& guest : pinned.guests) guest.pinned = true;
  EXPECT_EQ(obstacle(pinned), Obstacle::kPinned);
  pinned.guests[2].pinned = false;
  pinned.guests[2].last_move = pinned.now;
  EXPECT_EQ(obstacle(pinned), Obstacle::kCoolingDown);

  ClusterView full = uneven;
  full.peers[0].memory = full.peers[0].memory_used = 100;
  EXPECT_EQ(obstacle(full), Obstacle::kNoTarget);
  full.peers[0].alive = false;
  EXPECT_EQ(obstacle(full), Obstacle::kNoTarget) << "there is nobody";

  policy.work_per_imbalance = 1e-6;
  EXPECT_EQ(obstacle(uneven), Obstacle::kNotWorthIt);
}

TEST(Decide, WakesAHostOnlyWhenNoAwakeOneHasRoom) {
  ClusterView view = plain_view(1.2, 6, {plain_host(1, 0.5), plain_host(2, 0)});
  view.hot = true;
  view.peers[1].awake = false;
  EXPECT_EQ(decide(view, default_policy(Goal::kConsolidate)).front().target, 1u);
  view.peers[0] = plain_host(1, 0.94);
  const auto decisions = decide(view, default_policy(Goal::kConsolidate));
  EXPECT_EQ(decisions[0].action, Action::kWake);
  EXPECT_EQ(decisions[1].target, 2u);
}

TEST(Decide, WakesAHostWhileTheLoadStillGrows) {
  HostView sleeper = plain_host(2, 0);
  sleeper.awake = false;
  sleeper.guests = 0;
  ClusterView view = plain_view(0.7, 5, {plain_host(1, 0.88), sleeper});
  for (const Goal goal : {Goal::kBalance, Goal::kConsolidate}) {
    const PolicyConfig policy = default_policy(goal);
    view.boot = 60;
    view.rise = 5;  // 1.0 by then
    view.peers[0] = plain_host(1, 0.88);
    EXPECT_TRUE(wants_peers(view, policy));
    const auto decisions = decide(view, policy);
    ASSERT_EQ(decisions.size(), 1u);
    EXPECT_EQ(decisions[0].action, Action::kWake);
    EXPECT_EQ(decisions[0].target, 2u);
    const auto wakes = [&] {
      const auto all = decide(view, policy);
      return std::any_of(all.begin(), all.end(), [](const Decision& one) {
        return one.action == Action::kWake && one.cause == Cause::kOverload;
      });
    };
    view.peers[0] = plain_host(1, 0.3);
    EXPECT_FALSE(wakes()) << "somebody awake has room";
    view.peers[0] = plain_host(1, 0.88);
    view.rise = 1;
    EXPECT_FALSE(wakes()) << "it does not come to that";
    view.rise = 5;
    view.boot = 0;
    EXPECT_FALSE(wakes()) << "there is time when it comes to that";
    view.boot = 60;
    for (GuestView& guest : view.guests) guest.most = 170;
    EXPECT_FALSE(wakes()) << "more than the guests can ask for";
    for (GuestView& guest : view.guests) guest.most = 1000;
  }
}

TEST(Decide, StaysWhenTheLoadIsEvenOrTheGainSmall) {
  const auto even = decide(plain_view(0.6, 6, {plain_host(1, 0.6), plain_host(2, 0.58)}),
                           default_policy(Goal::kBalance));
  ASSERT_EQ(even.size(), 1u);
  EXPECT_EQ(even[0].action, Action::kStay);
  PolicyConfig dear = default_policy(Goal::kBalance);
  dear.work_per_imbalance = 1e-6;
  const auto small = decide(plain_view(0.8, 6, {plain_host(1, 0.3)}), dear);
  EXPECT_EQ(small[0].obstacle, Obstacle::kNotWorthIt);
  EXPECT_GT(small[0].cost, small[0].benefit);
}

TEST(Decide, EmptiesAHostOnlyAsAWhole) {
  const PolicyConfig policy = default_policy(Goal::kConsolidate);
  const auto fits = decide(plain_view(0.3, 3, {plain_host(1, 0.7), plain_host(2, 0.7)}), policy);
  EXPECT_EQ(fits.size(), 3u);
  for (const Decision& decision : fits) EXPECT_EQ(decision.cause, Cause::kConsolidation);
  const auto too_full =
      decide(plain_view(0.3, 3, {plain_host(1, 0.8), plain_host(2, 0.8)}), policy);
  ASSERT_EQ(too_full.size(), 1u);
  EXPECT_EQ(too_full[0].action, Action::kStay);
}

TEST(Decide, NeverFillsAHostSoThatItWouldBeRelievedAgain) {
  const PolicyConfig policy = default_policy(Goal::kConsolidate);
  ASSERT_LT(policy.hot_forecast, 0.92);
  ASSERT_LT(0.92, policy.fill);
  EXPECT_TRUE(moves(decide(plain_view(0.3, 3, {plain_host(1, 0.59)}), policy).front()));
  EXPECT_FALSE(moves(decide(plain_view(0.3, 3, {plain_host(1, 0.62)}), policy).front()));
}

TEST(Decide, EmptiesGuestsThatBelongTogetherOntoOneHost) {
  ClusterView view = plain_view(0.6, 3, {plain_host(1, 0.4), plain_host(2, 0.5)});
  for (GuestView& guest : view.guests) guest.keep_together = guest.id == 1 ? 0 : 7;
  view.drain = true;
  const auto plan = decide(view, default_policy(Goal::kBalance));
  ASSERT_EQ(plan.size(), 3u);
  std::map<GuestId, HostId> where;
  for (const Decision& decision : plan) where[decision.guest] = decision.target;
  EXPECT_EQ(where[2], where[3]);
  view.guests[0].keep_together = 7;  // all three fit on no host
  EXPECT_EQ(decide(view, default_policy(Goal::kBalance)).front().obstacle, Obstacle::kNoTarget);
}

TEST(Decide, DrainsTenGuestsOntoTwoHostsAndBackAgain) {
  ClusterView view = plain_view(0.5, 10, {plain_host(1, 0.1), plain_host(2, 0.2)});
  view.drain = true;
  for (GuestView& guest : view.guests) {
    guest.left = 1;  // from where it was drained just before
    guest.recent_moves = 1;
    guest.last_move = view.now - 60;
  }
  PolicyConfig policy = default_policy(Goal::kBalance);
  policy.incoming_limit = policy.outgoing_limit = 1;  // one after another, then
  EXPECT_EQ(decide(view, policy).size(), 10u);
  view.guests[3].pinned = true;
  const auto refused = decide(view, policy);
  ASSERT_EQ(refused.size(), 1u);
  EXPECT_EQ(refused[0].obstacle, Obstacle::kPinned);
  EXPECT_NE(explain(refused[0]).find("guest 4"), std::string::npos);
  EXPECT_EQ(explain(refused[0]).find("benefit"), std::string::npos) << "there is none to weigh";
}

TEST(Decide, TwoHostsNeverEmptyIntoEachOther) {
  const PolicyConfig policy = default_policy(Goal::kConsolidate);
  ClusterView here = plain_view(0.3, 3, {plain_host(1, 0.3)});
  ClusterView there = here;
  there.self.id = 1;
  there.peers[0].id = 0;
  EXPECT_NE(moves(decide(here, policy).front()), moves(decide(there, policy).front()));
}

TEST(Decide, DrainsOverManyTargetsOrNotAtAll) {
  ClusterView view =
      plain_view(0.9, 9, {plain_host(1, 0.3), plain_host(2, 0.3), plain_host(3, 0.3)});
  view.drain = true;
  PolicyConfig policy = default_policy(Goal::kBalance);
  const auto plan = decide(view, policy);
  ASSERT_EQ(plan.size(), 9u);
  std::map<HostId, int> per_target;
  for (const Decision& decision : plan) ++per_target[decision.target];
  EXPECT_EQ(per_target, (std::map<HostId, int>{{1, 3}, {2, 3}, {3, 3}}));
  view.guests[4].pinned = true;
  const auto refused = decide(view, policy);
  ASSERT_EQ(refused.size(), 1u);
  EXPECT_EQ(refused[0].action, Action::kRefuse);
}

TEST(Decide, DoesNotSendAGuestBackToTheHostItLeft) {
  ClusterView view = plain_view(1.2, 2, {plain_host(1, 0.1)});
  view.hot = true;
  const PolicyConfig policy = default_policy(Goal::kBalance);
  for (GuestView& guest : view.guests) {
    guest.left = 1;
    guest.recent_moves = 1;
    guest.last_move = view.now - 2 * policy.cooldown_seconds;
  }
  EXPECT_EQ(decide(view, policy).front().action, Action::kRefuse);
  for (GuestView& guest : view.guests) guest.last_move = view.now - 5 * policy.cooldown_seconds;
  EXPECT_EQ(decide(view, policy).front().action, Action::kMove);
}

}  // namespace
}  // namespace godwit::balancer
