// Random views and policies for the property tests; the same seed gives the same ones everywhere.
#pragma once

#include <cmath>
#include <cstdint>
#include <random>

#include "balancer/policy.h"
#include "balancer/view.h"

namespace godwit::balancer {

class RandomCluster {
 public:
  explicit RandomCluster(std::uint64_t seed) : random_(seed) {}

  double real(double low, double high) {
    return low + (high - low) * static_cast<double>(random_() >> 11) * 0x1p-53;
  }
  std::uint64_t below(std::uint64_t n) { return random_() % n; }
  bool chance(double p) { return real(0, 1) < p; }
  template <class Items>
  void shuffle(Items& items) {
    for (std::size_t i = items.size(); i > 1; --i) std::swap(items[i - 1], items[below(i)]);
  }

  GuestView guest(GuestId id) {
    GuestView guest;
    guest.id = id;
    guest.most = real(100, 2500);
    guest.demand = guest.most * real(0, 1);
    guest.forecast = {guest.most * real(0, 1), std::pow(guest.most * real(0, 0.3), 2)};
    guest.memory = real(100, 2000);
    guest.dirty_rate = real(0, 200);
    guest.sensitivity = real(0, 5);
    if (plain_) return guest;
    guest.needs = chance(0.2) ? 1u << below(3) : 0;
    guest.keep_apart = chance(0.3) ? static_cast<std::uint32_t>(1 + below(3)) : 0;
    guest.keep_together = chance(0.15) ? static_cast<std::uint32_t>(1 + below(2)) : 0;
    guest.pinned = chance(0.03);
    guest.moving = chance(0.03);
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
    host.memory = chance(0.1) ? 0 : real(4000, 32000);
    host.memory_used = host.memory * real(0, 0.9);
    host.link = real(10, 1000);
    host.forecast = {host.capacity * real(0, 1), std::pow(host.capacity * real(0, 0.2), 2)};
    host.demand = host.forecast.mean;
    host.guests = below(20);
    host.has = chance(0.3) ? below(8) : ~std::uint64_t{0};
    if (chance(0.4)) host.groups.push_back(static_cast<std::uint32_t>(1 + below(3)));
    const double idle = real(50, 120), slope = real(1, 8);
    for (std::size_t i = 0; i < 11; ++i) {
      host.power.watts[i] = idle + slope * static_cast<double>(i);
    }
    host.incoming = static_cast<int>(below(3));
    host.outgoing = static_cast<int>(below(3));
    host.alive = !chance(0.1);
    host.awake = !chance(0.2);
    host.closed = chance(0.1);
    const std::uint64_t offers = below(5);
    for (std::uint64_t i = 0; i < offers; ++i) {
      GuestView offer = guest(1000 * (id + 1) + i);
      host.demand += offer.demand;
      host.memory_used += offer.memory;
      host.forecast.mean += offer.forecast.mean;
      host.forecast.variance += offer.forecast.variance;
      if (offer.keep_apart != 0) host.groups.push_back(offer.keep_apart);
      host.offers.push_back(offer);
    }
    return host;
  }

  ClusterView view() {
    ClusterView view;
    plain_ = chance(0.3);  // guests without wishes, for whole hosts that can be emptied
    view.now = 10000;
    view.self = host(0);
    view.self.forecast = {};
    view.self.demand = view.self.memory_used = 0;
    view.self.groups.clear();
    view.self.offers.clear();
    view.self.alive = view.self.awake = true;
    view.self.guests = below(12);
    if (plain_) {
      view.self.guests = below(5);
      view.self.incoming = view.self.outgoing = 0;
    }
    for (GuestId id = 0; id < view.self.guests; ++id) {
      GuestView guest = this->guest(id + 1);
      view.self.demand += guest.demand;
      view.self.memory_used += guest.memory;
      view.self.forecast.mean += guest.forecast.mean;
      view.self.forecast.variance += guest.forecast.variance;
      if (guest.keep_apart != 0) view.self.groups.push_back(guest.keep_apart);
      view.guests.push_back(guest);
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
    policy.margin = real(0.3, 3);
    policy.incoming_limit = static_cast<int>(1 + below(5));
    policy.outgoing_limit = static_cast<int>(1 + below(16));
    policy.moves_per_round = static_cast<int>(1 + below(6));
    return policy;
  }

 private:
  std::mt19937_64 random_;
  bool plain_ = false;
};

}  // namespace godwit::balancer
