// Our balancer inside the simulated data centre: every host decides for itself with
// balancer::decide, from its own measurements and what a few random peers answer; targets reserve
// before a move is agreed.
#pragma once

#include <functional>
#include <random>

#include "balancer/decide.h"
#include "balancer/detection.h"
#include "balancer/forecast.h"
#include "balancer/simulator/world.h"

namespace godwit::balancer::simulator {

class NodePolicy : public Policy {
 public:
  NodePolicy(const PolicyConfig& config, std::uint64_t seed) : config_(config), random_(seed) {}
  std::vector<Move> plan(const World& world) override;

  // Called with every decision and refusal, in order; `time` in seconds.
  using Observer = std::function<void(double time, const Decision&)>;
  void observe_decisions(Observer observer) { observer_ = std::move(observer); }

 private:
  struct GuestState {
    LoadEstimator load;
    double last_move = -1e18;
    double heat = 0;  // recent moves, decaying
    std::uint64_t left = ~std::uint64_t{0};
    Forecast forecast;
  };
  struct HostState {
    OverloadDetector detector;
    double last_arrival = -1e18;
    HostView view;
    bool emptied = false;  // decided to empty itself in this round
    bool took = false;     // reserved for an arrival in this round
  };

  void observe(const World& world);
  GuestView guest_view(const World& world, GuestId id) const;
  void ask_peers(ClusterView& view, std::size_t self);
  // Lets the hosts act one after another; returns those that moved a guest.
  std::vector<std::size_t> take_turns(const World& world, const std::vector<std::size_t>& order,
                                      std::vector<Move>& moves);
  void carry_out(const World& world, const std::vector<Decision>& decisions,
                 std::vector<Move>& moves);

  PolicyConfig config_;
  std::mt19937_64 random_;
  std::vector<GuestState> guests_;
  std::vector<HostState> hosts_;
  std::vector<std::size_t> awake_;
  std::vector<std::size_t> asleep_;  // most efficient first
  Observer observer_;
  double now_ = 0;
};

}  // namespace godwit::balancer::simulator
