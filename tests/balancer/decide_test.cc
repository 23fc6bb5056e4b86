// Properties of the decision over random clusters, and the cases people complain about.
#include "balancer/decide.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <map>
#include <random>
#include <set>

#include "balancer/damping.h"

namespace godwit::balancer {
namespace {

class RandomCluster {
 public:
  explicit RandomCluster(std::uint64_t seed) : random_(seed) {}

  double real(double low, double high) {
    return low + (high - low) * static_cast<double>(random_() >> 11) * 0x1p-53;
  }
  std::uint64_t below(std::uint64_t n) { return random_() % n; }
  bool chance(double p) { return real(0, 1) < p; }

  GuestView guest(GuestId id) {
    GuestView guest;
    guest.id = id;
    guest.most = real(100, 2500);
    guest.demand = guest.most * real(0, 1);
    guest.forecast = {guest.most * real(0, 1), std::pow(guest.most * real(0, 0.3), 2)};
    guest.memory = real(100, 2000);
    guest.dirty_rate = real(0, 200);
    guest.needs = chance(0.2) ? 1u << below(3) : 0;
    guest.keep_apart = chance(0.3) ? static_cast<std::uint32_t>(1 + below(3)) : 0;
    guest.keep_together = chance(0.1) ? 1 : 0;
    guest.pinned = chance(0.05);
    guest.moving = chance(0.05);
    guest.last_move = chance(0.3) ? real(0, 10000) : -1e18;
    guest.recent_moves = static_cast<std::uint32_t>(below(4));
    guest.left = below(8);
    return guest;
  }

  HostView host(HostId id) {
    HostView host;
    host.id = id;
    host.capacity = real(2000, 8000);
    host.core = chance(0.5) ? host.capacity / 2 : 0;
    host.memory = real(4000, 32000);
    host.memory_used = host.memory * real(0, 0.9);
    host.link = real(10, 1000);
    host.forecast = {host.capacity * real(0, 1), std::pow(host.capacity * real(0, 0.2), 2)};
    host.demand = host.forecast.mean;
    host.guests = below(20);
    host.has = chance(0.3) ? below(8) : ~std::uint64_t{0};
    if (chance(0.4)) host.groups.push_back(static_cast<std::uint32_t>(1 + below(3)));
    for (std::size_t i = 0; i < 11; ++i) host.power.watts[i] = 80 + 5 * static_cast<double>(i);
    host.incoming = static_cast<int>(below(3));
    host.alive = !chance(0.1);
    host.awake = !chance(0.2);
    host.closed = chance(0.1);
    for (std::size_t i = 0; i < below(3); ++i) host.offers.push_back(guest(1000 * (id + 1) + i));
    return host;
  }

  ClusterView view() {
    ClusterView view;
    view.now = 10000;
    view.self = host(0);
    view.self.forecast = {};
    view.self.demand = view.self.memory_used = 0;
    view.self.groups.clear();
    view.self.offers.clear();
    view.self.alive = view.self.awake = true;
    view.self.outgoing = static_cast<int>(below(3));
    view.self.guests = below(12);
    for (GuestId id = 0; id < view.self.guests; ++id) {
      view.guests.push_back(guest(id + 1));
      view.self.demand += view.guests.back().demand;
      view.self.memory_used += view.guests.back().memory;
      view.self.forecast.mean += view.guests.back().forecast.mean;
      view.self.forecast.variance += view.guests.back().forecast.variance;
    }
    const HostId peers = below(8);
    for (HostId id = 1; id <= peers; ++id) view.peers.push_back(host(id));
    view.hot = chance(0.5);
    view.drain = chance(0.2);
    return view;
  }

  PolicyConfig policy() {
    PolicyConfig policy = default_policy(chance(0.5) ? Goal::kBalance : Goal::kConsolidate);
    policy.cooldown_seconds = real(0, 2000);
    policy.settle_seconds = 0;
    policy.deadband = real(0, 0.1);
    policy.margin = real(0.5, 3);
    return policy;
  }

 private:
  std::mt19937_64 random_;
};

// An account of its own of what the decisions do, so that a slip in the balancer's bookkeeping
// shows.
class Account {
 public:
  Account(const ClusterView& view, const PolicyConfig& policy) : view_(view), policy_(policy) {
    for (const HostView& peer : view.peers) peers_[peer.id] = peer;
    for (const GuestView& guest : view.guests) guests_[guest.id] = guest;
  }

  void arrive(const Decision& decision) {
    ASSERT_TRUE(guests_.contains(decision.guest));
    ASSERT_TRUE(peers_.contains(decision.target));
    const GuestView guest = guests_[decision.guest];
    HostView& peer = peers_[decision.target];
    guests_.erase(decision.guest);
    if (decision.action == Action::kSwap) leave(decision.partner, peer);
    EXPECT_FALSE(guest.pinned || guest.moving);
    EXPECT_TRUE(peer.alive && !peer.closed);
    EXPECT_EQ(guest.needs & ~peer.has, 0u);
    if (guest.keep_apart != 0) {
      for (const std::uint32_t group : peer.groups) EXPECT_NE(group, guest.keep_apart);
      peer.groups.push_back(guest.keep_apart);
    }
    if (decision.cause != Cause::kDrain) {
      EXPECT_GE(view_.now - guest.last_move, cooldown(guest, policy_));
    }
    EXPECT_LE(guest.demand, peer.core > 0 ? peer.core : peer.capacity);
    peer.memory_used += guest.memory;
    EXPECT_LE(peer.memory_used, peer.memory * (1 + 1e-12));
    peer.forecast.mean += guest.forecast.mean;
    peer.forecast.variance += guest.forecast.variance;
    EXPECT_LE(peer.forecast.mean + policy_.confidence * std::sqrt(peer.forecast.variance),
              policy_.fill * peer.capacity * (1 + 1e-9));
    EXPECT_LE(++peer.incoming, policy_.incoming_limit);
    if (!peer.awake) {
      EXPECT_TRUE(woken_.contains(peer.id));
    }
  }
  void wake(HostId host) { woken_.insert(host); }
  std::size_t left() const { return guests_.size(); }

 private:
  void leave(GuestId id, HostView& peer) {
    for (const GuestView& offer : peer.offers) {
      if (offer.id != id) continue;
      EXPECT_FALSE(offer.pinned || offer.moving);
      peer.memory_used = std::max(0.0, peer.memory_used - offer.memory);
      peer.forecast.mean = std::max(0.0, peer.forecast.mean - offer.forecast.mean);
      peer.forecast.variance = std::max(0.0, peer.forecast.variance - offer.forecast.variance);
      std::erase(peer.groups, offer.keep_apart);
      return;
    }
    FAIL() << "partner was not offered";
  }

  const ClusterView& view_;
  const PolicyConfig& policy_;
  std::map<HostId, HostView> peers_;
  std::map<GuestId, GuestView> guests_;
  std::set<HostId> woken_;
};

bool moves(const Decision& decision) {
  return decision.action == Action::kMove || decision.action == Action::kSwap;
}

TEST(DecideProperty, NeverBreaksARuleOrACapacityAndNeverMovesWithoutBenefit) {
  std::size_t seen[3] = {};
  for (std::uint64_t seed = 0; seed < 20'000; ++seed) {
    RandomCluster cluster(seed);
    const ClusterView view = cluster.view();
    const PolicyConfig policy = cluster.policy();
    const auto decisions = decide(view, policy);
    ASSERT_FALSE(decisions.empty());
    ASSERT_LE(decisions.size(), 2 * view.guests.size() + 2);
    Account account(view, policy);
    std::map<unsigned, std::pair<double, double>> plans;
    for (const Decision& decision : decisions) {
      EXPECT_FALSE(explain(decision).empty());
      if (decision.action == Action::kWake) account.wake(decision.target);
      if (!moves(decision)) continue;
      ++seen[decision.cause == Cause::kOverload ? 0 : decision.cause == Cause::kImbalance ? 1 : 2];
      account.arrive(decision);
      plans[decision.plan].first += decision.benefit;
      plans[decision.plan].second += decision.cost;
      if (decision.cause == Cause::kDrain) plans[decision.plan].first = 1e300;
    }
    for (const auto& [plan, worth] : plans) {
      EXPECT_GT(worth.first, std::min(1.0, policy.margin) * worth.second) << "plan " << plan;
    }
    if (view.drain && moves(decisions.back())) {
      EXPECT_EQ(account.left(), 0u);
    }
    if (testing::Test::HasFailure()) FAIL() << "seed " << seed;
  }
  EXPECT_GT(seen[0], 1000u);
  EXPECT_GT(seen[1], 1000u);
  EXPECT_GT(seen[2], 1000u);
}

TEST(DecideProperty, GivesTheSameAnswerForTheSameView) {
  for (std::uint64_t seed = 0; seed < 2000; ++seed) {
    RandomCluster first(seed), second(seed);
    const auto a = decide(first.view(), first.policy()), b = decide(second.view(), second.policy());
    ASSERT_EQ(a.size(), b.size());
    for (std::size_t i = 0; i < a.size(); ++i) EXPECT_EQ(explain(a[i]), explain(b[i]));
  }
}

TEST(DecideProperty, SurvivesFiguresThatAreNonsense) {
  const double nonsense[] = {std::numeric_limits<double>::quiet_NaN(),
                             std::numeric_limits<double>::infinity(), -1, -1e300, 1e300};
  for (std::uint64_t seed = 0; seed < 5000; ++seed) {
    RandomCluster cluster(seed);
    ClusterView view = cluster.view();
    const PolicyConfig policy = cluster.policy();
    std::set<HostId> liars;
    std::set<GuestId> mismeasured;
    for (HostView& peer : view.peers) {
      if (!cluster.chance(0.5)) continue;
      double* figures[] = {&peer.capacity,    &peer.forecast.mean, &peer.forecast.variance,
                           &peer.memory_used, &peer.link,          &peer.power.watts[3]};
      const double value = nonsense[cluster.below(4)];
      *figures[cluster.below(6)] = value;
      liars.insert(peer.id);
    }
    for (GuestView& guest : view.guests) {
      if (cluster.chance(0.3)) guest.forecast.mean = nonsense[cluster.below(5)];
      if (cluster.chance(0.3)) guest.memory = nonsense[cluster.below(4)];
      const bool sane = guest.memory >= 0 && guest.memory < 1e9 && guest.forecast.mean >= 0 &&
                        guest.forecast.mean < 1e9;
      if (!sane) mismeasured.insert(guest.id);
    }
    if (cluster.chance(0.1)) view.self.forecast.mean = nonsense[cluster.below(5)];
    for (const Decision& decision : decide(view, policy)) {
      if (moves(decision)) {
        EXPECT_FALSE(liars.contains(decision.target)) << seed;
        EXPECT_FALSE(mismeasured.contains(decision.guest)) << seed;
      }
    }
  }
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
  const auto fits = decide(plain_view(0.3, 3, {plain_host(1, 0.75), plain_host(2, 0.75)}), policy);
  EXPECT_EQ(fits.size(), 3u);
  for (const Decision& decision : fits) EXPECT_EQ(decision.cause, Cause::kConsolidation);
  const auto too_full =
      decide(plain_view(0.3, 3, {plain_host(1, 0.8), plain_host(2, 0.8)}), policy);
  ASSERT_EQ(too_full.size(), 1u);
  EXPECT_EQ(too_full[0].action, Action::kStay);
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
