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

  double chance();  // from 0 to 1
  void observe(const World& world);
  GuestView guest_view(const World& world, GuestId id) const;
  void ask_peers(ClusterView& view, std::size_t self);
  // What the host would do now; nothing when it need not look.
  std::vector<Decision> look(const World& world, std::size_t host);
  // To consolidate, hosts act once, one after another.
  std::vector<Move> take_turns(const World& world);
  // To balance, the host whose best move gains most acts first, and again.
  std::vector<Move> take_by_gain(const World& world);
  void carry_out(const World& world, const std::vector<Decision>& decisions,
                 std::vector<Move>& moves);

  PolicyConfig config_;
  std::mt19937_64 random_;
  std::vector<GuestState> guests_;
  std::vector<HostState> hosts_;
  std::vector<std::size_t> awake_;
  std::vector<std::size_t> asleep_;  // most efficient first
  ClusterView view_;                 // of the host that looks
  Observer observer_;
  double now_ = 0;
};

}  // namespace godwit::balancer::simulator
