#include "tests/balancer/static_cluster.h"

#include <numeric>

#include "balancer/offers.h"

namespace godwit::balancer {

namespace {
constexpr double kLeap = 1e7;  // seconds: above four of the longest cool-downs
}

StaticCluster::StaticCluster(std::uint64_t seed)
    : random_(seed),
      policy_(default_policy(random_.chance(0.5) ? Goal::kBalance : Goal::kConsolidate)) {
  nodes_.resize(2 + random_.below(1 + random_.below(9)));  // small ones get into more trouble
  for (HostId id = 0; id < nodes_.size(); ++id) {
    HostView& host = nodes_[id].host;
    host.id = id;
    host.capacity = random_.chance(0.5) ? 3720 : 5320;
    host.memory = 16384;
    host.link = 100;
    for (std::size_t i = 0; i < 11; ++i) {
      host.power.watts[i] = 90 + (host.capacity > 4000 ? 4 : 3) * static_cast<double>(i);
    }
  }
  count_ = random_.below(1 + random_.below(6 * nodes_.size()));
  // From nearly idle to more than there is.
  const double each = random_.real(0.1, 1.2) * 4500 * static_cast<double>(nodes_.size()) /
                      static_cast<double>(count_ + 1);
  const bool noisy = random_.chance(0.7);
  // Pairs that fill a host a little above the mark where it counts as overloaded, cheap to move.
  const bool tight = random_.chance(0.2);
  const double capacity = nodes_.front().host.capacity;
  if (tight) count_ = 2;
  for (GuestId id = 1; id <= count_; ++id) {
    GuestView guest;
    guest.id = id;
    guest.most = 2500;
    guest.forecast.mean = guest.demand = std::min(2500.0, each * random_.real(0, 2));
    if (noisy) guest.forecast.variance = std::pow(guest.demand * random_.real(0, 0.5), 2);
    guest.memory = random_.real(100, 2000);
    if (tight) {
      guest.forecast.mean = guest.demand = capacity * random_.real(0.445, 0.465);
      guest.forecast.variance = std::pow(capacity * random_.real(0.01, 0.03), 2);
      guest.memory = random_.real(5, 50);
    }
    // Start crowded or spread.
    nodes_[random_.below(1 + random_.below(nodes_.size()))].guests[id] = guest;
  }
}

HostView StaticCluster::told(const Node& node) const {
  HostView host = node.host;
  std::vector<GuestView> guests;
  for (const auto& [id, guest] : node.guests) {
    guests.push_back(guest);
    host.demand += guest.demand;
    host.forecast.mean += guest.forecast.mean;
    host.forecast.variance += guest.forecast.variance;
    host.memory_used += guest.memory;
    ++host.guests;
  }
  host.offers = offers(std::move(guests), now_, policy_);
  host.awake = policy_.goal == Goal::kBalance || !node.guests.empty();
  return host;
}

ClusterView StaticCluster::view(const Node& node) const {
  ClusterView view;
  view.now = now_;
  view.self = told(node);
  view.hot = node.detector.hot();
  for (const auto& [id, guest] : node.guests) view.guests.push_back(guest);
  for (const Node& other : nodes_) {
    if (&other != &node) view.peers.push_back(told(other));
  }
  return view;
}

void StaticCluster::transfer(GuestId id, Node& from, Node& to) {
  GuestView guest = from.guests.at(id);
  from.guests.erase(id);
  guest.left = from.host.id;
  guest.last_move = now_;
  to.guests[id] = guest;
}

// Returns the moves made.
std::size_t StaticCluster::round(std::string& log) {
  now_ += kLeap;
  std::vector<std::size_t> order(nodes_.size());
  std::iota(order.begin(), order.end(), 0);
  random_.shuffle(order);
  std::size_t moves = 0;
  for (const std::size_t index : order) {
    Node& node = nodes_[index];
    const HostView self = told(node);
    for (int i = 0; i < policy_.hot_n; ++i) {
      node.detector.add(self.demand, self.forecast, self.capacity, policy_);
    }
    for (const Decision& decision : decide(view(node), policy_)) {
      if (decision.action != Action::kMove && decision.action != Action::kSwap) continue;
      log += explain(decision) + "\n";
      ++moves;
      Node& target = nodes_.at(decision.target);
      if (decision.action == Action::kSwap) transfer(decision.partner, target, node);
      transfer(decision.guest, node, target);
    }
  }
  return moves;
}

StaticCluster::Outcome StaticCluster::run(std::size_t most_rounds) {
  Outcome outcome;
  for (; outcome.rounds < most_rounds && !outcome.at_rest; ++outcome.rounds) {
    const std::size_t moves = round(outcome.log);
    outcome.moves += moves;
    outcome.at_rest = moves == 0;
  }
  return outcome;
}

}  // namespace godwit::balancer
