// What must hold for every decision, over random clusters. A failure names its seed;
// GODWIT_SEED=<seed> repeats that cluster alone, GODWIT_SEEDS=<n> tries n of them.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <limits>
#include <set>
#include <string>

#include "balancer/decide.h"
#include "tests/balancer/account.h"
#include "tests/balancer/random_cluster.h"
#include "tests/balancer/static_cluster.h"

namespace godwit::balancer {
namespace {

// Calls `body` with every seed until one fails. Returns whether all `count` were tried, so that
// what is claimed of them together can be looked at.
template <class Body>
bool for_seeds(std::uint64_t count, const Body& body) {
  const char* one = std::getenv("GODWIT_SEED");
  const char* more = std::getenv("GODWIT_SEEDS");
  const std::uint64_t first = one != nullptr ? std::strtoull(one, nullptr, 10) : 0;
  if (more != nullptr) count = std::strtoull(more, nullptr, 10);
  const std::uint64_t last = one != nullptr ? first + 1 : count;
  for (std::uint64_t seed = first; seed < last; ++seed) {
    body(seed);
    if (testing::Test::HasFailure()) {
      ADD_FAILURE() << "repeat with GODWIT_SEED=" << seed;
      return false;
    }
  }
  return one == nullptr && more == nullptr;
}

bool moves(const Decision& decision) {
  return decision.action == Action::kMove || decision.action == Action::kSwap;
}

std::string in_full(const std::vector<Decision>& decisions) {
  std::string text;
  for (const Decision& d : decisions) {
    text += explain(d) + " plan " + std::to_string(d.plan) + "\n";
  }
  return text;
}

void expect_lawful(const ClusterView& view, const PolicyConfig& policy,
                   const std::vector<Decision>& decisions) {
  ASSERT_FALSE(decisions.empty());
  // A move and its wake-up a guest, a swap and a reason why no more.
  ASSERT_LE(decisions.size(), 2 * view.guests.size() + 2);
  Account account(view, policy);
  for (const Decision& decision : decisions) account.apply(decision);
  account.close();
  for (const std::string& violation : account.violations()) ADD_FAILURE() << violation;
  if (view.drain && moves(decisions.back())) {
    EXPECT_EQ(account.guests_left(), 0u);
  }
}

TEST(DecideProperty, NeverBreaksARuleOrACapacityAndNeverMovesWithoutBenefit) {
  std::size_t causes[5] = {}, swaps[5] = {}, wakes = 0;
  const bool all = for_seeds(20'000, [&](std::uint64_t seed) {
    RandomCluster cluster(seed);
    const ClusterView view = cluster.view();
    const PolicyConfig policy = cluster.policy();
    const auto decisions = decide(view, policy);
    expect_lawful(view, policy, decisions);
    for (const Decision& decision : decisions) {
      if (decision.action == Action::kSwap) ++swaps[static_cast<int>(decision.cause)];
      if (decision.action == Action::kWake) ++wakes;
      if (moves(decision)) ++causes[static_cast<int>(decision.cause)];
    }
  });
  if (!all) return;
  // Each of them was put to the test.
  for (const Cause cause :
       {Cause::kOverload, Cause::kImbalance, Cause::kConsolidation, Cause::kDrain}) {
    EXPECT_GT(causes[static_cast<int>(cause)], 200u) << name(cause);
  }
  for (const Cause cause : {Cause::kOverload, Cause::kImbalance}) {
    EXPECT_GT(swaps[static_cast<int>(cause)], 50u) << name(cause);
  }
  EXPECT_GT(wakes, 50u);
}

TEST(DecideProperty, ARefusalSaysWhyWithTheLoadAsItIs) {
  for_seeds(5'000, [&](std::uint64_t seed) {
    RandomCluster cluster(seed);
    const ClusterView view = cluster.view();
    const auto decisions = decide(view, cluster.policy());
    if (moves(decisions.front()) || decisions.front().action == Action::kWake) return;
    ASSERT_EQ(decisions.size(), 1u);
    EXPECT_NE(decisions.front().obstacle, Obstacle::kNone);
    EXPECT_EQ(decisions.front().source_before, view.self.forecast.mean / view.self.capacity);
    EXPECT_TRUE(!view.drain || view.guests.empty() || decisions.front().action == Action::kRefuse);
  });
}

// Two peers may be equally good to the last bit, as when neither is expected to run over: then the
// first is taken.
bool tied(const Decision& a, const Decision& b, const PolicyConfig& policy) {
  const double left = a.benefit - policy.margin * a.cost;
  const double right = b.benefit - policy.margin * b.cost;
  return a.cause == Cause::kOverload && b.cause == a.cause &&
         std::abs(left - right) <= 1e-9 * std::max(std::abs(left), std::abs(right));
}

TEST(DecideProperty, GivesTheSameAnswerForTheSameViewInWhateverOrderThePeersAnswered) {
  std::size_t ties = 0, moved = 0;
  const bool all = for_seeds(10'000, [&](std::uint64_t seed) {
    RandomCluster cluster(seed);
    ClusterView view = cluster.view();
    const PolicyConfig policy = cluster.policy();
    const auto answer = decide(view, policy);
    ASSERT_EQ(in_full(decide(view, policy)), in_full(answer));
    if (moves(answer.front())) ++moved;
    cluster.shuffle(view.peers);
    const auto shuffled = decide(view, policy);
    for (std::size_t i = 0; i < std::min(answer.size(), shuffled.size()); ++i) {
      if (in_full({answer[i]}) == in_full({shuffled[i]})) continue;
      ++ties;
      EXPECT_TRUE(tied(answer[i], shuffled[i], policy))
          << in_full({answer[i]}) << in_full({shuffled[i]});
      return;  // what follows a tie is another story
    }
    EXPECT_EQ(answer.size(), shuffled.size());
  });
  if (!all) return;
  EXPECT_GT(moved, 1000u);
  EXPECT_LT(ties, moved / 20);
}

// Spoils one figure.
void spoil(RandomCluster& cluster, std::initializer_list<double*> figures) {
  const double nonsense[] = {std::numeric_limits<double>::quiet_NaN(),
                             std::numeric_limits<double>::infinity(),
                             -std::numeric_limits<double>::infinity(),
                             -1,
                             -1e300,
                             1e300,
                             std::numeric_limits<double>::max()};
  *figures.begin()[cluster.below(figures.size())] = nonsense[cluster.below(std::size(nonsense))];
}

void spoil(RandomCluster& cluster, GuestView& guest) {
  spoil(cluster, {&guest.demand, &guest.forecast.mean, &guest.forecast.variance, &guest.memory,
                  &guest.dirty_rate, &guest.sensitivity});
}

void spoil(RandomCluster& cluster, HostView& host) {
  if (cluster.chance(0.2)) {
    (cluster.chance(0.5) ? host.incoming : host.outgoing) = -1000;
  } else if (!host.offers.empty() && cluster.chance(0.3)) {
    spoil(cluster, host.offers[cluster.below(host.offers.size())]);
  } else {
    spoil(cluster,
          {&host.capacity, &host.core, &host.memory, &host.memory_used, &host.link, &host.demand,
           &host.forecast.mean, &host.forecast.variance, &host.power.watts[cluster.below(11)]});
  }
}

TEST(DecideProperty, SendsNothingToAHostWithNonsenseFiguresAndMovesNoGuestMeasuredSo) {
  std::size_t moved = 0;
  const bool all = for_seeds(20'000, [&](std::uint64_t seed) {
    RandomCluster cluster(seed);
    ClusterView view = cluster.view();
    const PolicyConfig policy = cluster.policy();
    std::set<HostId> liars;
    std::set<GuestId> mismeasured;
    for (HostView& peer : view.peers) {
      if (!cluster.chance(0.4)) continue;
      spoil(cluster, peer);
      liars.insert(peer.id);
    }
    for (GuestView& guest : view.guests) {
      if (!cluster.chance(0.1)) continue;
      spoil(cluster, guest);
      mismeasured.insert(guest.id);
    }
    ClusterView judged = view;  // for the account such a guest is pinned
    for (GuestView& guest : judged.guests) {
      if (mismeasured.contains(guest.id)) guest.pinned = true;
    }
    const auto decisions = decide(view, policy);
    expect_lawful(judged, policy, decisions);
    for (const Decision& decision : decisions) {
      if (!moves(decision)) continue;
      ++moved;
      EXPECT_FALSE(liars.contains(decision.target));
    }
  });
  if (all) {
    EXPECT_GT(moved, 1000u);
  }
}

TEST(DecideProperty, DoesNothingWhileItsOwnFiguresAreNonsense) {
  for_seeds(5'000, [&](std::uint64_t seed) {
    RandomCluster cluster(seed);
    ClusterView view = cluster.view();
    const PolicyConfig policy = cluster.policy();
    if (cluster.chance(0.2)) {
      spoil(cluster, {&view.now});
      if (std::isfinite(view.now)) return;  // a clock may begin anywhere
    } else {
      spoil(cluster, view.self);
    }
    for (const Decision& decision : decide(view, policy)) {
      EXPECT_TRUE(decision.action == Action::kStay || decision.action == Action::kRefuse);
      EXPECT_FALSE(explain(decision).empty());
    }
  });
}

TEST(DecideProperty, CountsAHostOnceAndAGuestOnceHoweverOftenTheyAreListed) {
  std::size_t moved = 0;
  const bool all = for_seeds(20'000, [&](std::uint64_t seed) {
    RandomCluster cluster(seed);
    ClusterView view = cluster.view();
    const PolicyConfig policy = cluster.policy();
    const ClusterView honest = view;
    std::set<GuestId> twice;
    for (const HostView& peer : honest.peers) {
      if (cluster.chance(0.3)) view.peers.push_back(peer);
    }
    if (cluster.chance(0.3)) view.peers.insert(view.peers.begin(), view.self);
    for (const GuestView& guest : honest.guests) {
      if (!cluster.chance(0.05)) continue;
      view.guests.push_back(guest);
      twice.insert(guest.id);
    }
    for (HostView& peer : view.peers) {
      if (!cluster.chance(0.2) || honest.guests.empty()) continue;
      // It offers what is here, or what another offers.
      peer.offers.push_back(cluster.guest(1 + cluster.below(honest.guests.size())));
      if (!view.peers.front().offers.empty()) peer.offers.push_back(view.peers.front().offers[0]);
    }
    const auto decisions = decide(view, policy);
    // The account keeps the first answer of a host and knows no guest twice.
    expect_lawful(view, policy, decisions);
    for (const Decision& decision : decisions) {
      if (!moves(decision)) continue;
      ++moved;
      EXPECT_FALSE(twice.contains(decision.guest));
      EXPECT_TRUE(decision.action == Action::kMove || decision.partner > 1000);
    }
  });
  if (all) {
    EXPECT_GT(moved, 1000u);
  }
}

TEST(DecideProperty, LoadsThatStayTheSameComeToRest) {
  std::size_t moved = 0;
  const bool all = for_seeds(20'000, [&](std::uint64_t seed) {
    StaticCluster cluster(seed);
    const StaticCluster::Outcome outcome = cluster.run(30);
    EXPECT_TRUE(outcome.at_rest) << outcome.log;
    EXPECT_LE(outcome.moves, 4 * cluster.guests()) << outcome.log;
    if (outcome.moves > 0) ++moved;
  });
  if (all) {
    EXPECT_GT(moved, 500u);
  }
}

}  // namespace
}  // namespace godwit::balancer
