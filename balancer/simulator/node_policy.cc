#include "balancer/simulator/node_policy.h"

#include <algorithm>
#include <cmath>

#include "balancer/rules.h"

namespace godwit::balancer::simulator {

namespace {
constexpr std::size_t kSleepersOffered = 2;
constexpr double kHeatHalfLife = 3600;  // seconds
// To balance, a node that moved a guest looks again: a live one decides every second, so between
// two samples it has time for several turns.
constexpr int kTurns = 4;
}  // namespace

GuestView NodePolicy::guest_view(const World& world, GuestId id) const {
  const Guest& guest = world.guests()[id];
  const GuestState& state = guests_[id];
  GuestView view;
  view.id = id;
  view.demand = guest.requested;
  view.forecast = state.forecast;
  view.most = guest.mips;
  view.memory = guest.ram;
  view.last_move = state.last_move;
  view.recent_moves = static_cast<std::uint32_t>(std::lround(state.heat));
  view.left = state.left;
  return view;
}

// One measurement round: estimators, detectors and the figures every host tells its peers.
void NodePolicy::observe(const World& world) {
  guests_.resize(world.guests().size());
  hosts_.resize(world.hosts().size());
  const double decay = std::exp2(-kSampleSeconds / kHeatHalfLife);
  now_ = world.now();
  awake_.clear();
  asleep_.clear();
  for (std::size_t h = 0; h < hosts_.size(); ++h) {
    const Host& host = world.hosts()[h];
    HostState& state = hosts_[h];
    HostView& view = state.view;
    view = {};
    view.id = h;
    view.capacity = host.model->total_mips;
    view.core = host.model->core_mips;
    view.memory = world.config().memory_binds ? host.model->ram : 0;
    view.link = kMigrationMegabytesPerSecond;
    view.power.watts = host.model->watts;
    view.last_arrival = state.last_arrival;
    view.guests = host.guests.size();
    for (const GuestId id : host.guests) {
      const Guest& guest = world.guests()[id];
      GuestState& load = guests_[id];
      load.load.add(guest.requested, config_);
      load.heat *= decay;
      load.forecast = load.load.forecast(guest.mips, config_);
      view.demand += guest.requested;
      view.memory_used += guest.ram;
      view.forecast = with(view.forecast, load.forecast);
    }
    view.awake = config_.goal == Goal::kBalance || !host.guests.empty();
    state.emptied = state.took = false;
    state.detector.add(view.demand, view.forecast, view.capacity, config_);
    (view.awake ? awake_ : asleep_).push_back(h);
  }
  std::stable_sort(asleep_.begin(), asleep_.end(), [&](std::size_t a, std::size_t b) {
    return hosts_[a].view.power.watts[10] / hosts_[a].view.capacity <
           hosts_[b].view.power.watts[10] / hosts_[b].view.capacity;
  });
}

// All awake peers when they are few, otherwise a random choice; plus the first that could be woken.
void NodePolicy::ask_peers(ClusterView& view, std::size_t self) {
  const auto wanted = static_cast<std::size_t>(config_.peers_asked);
  const auto add = [&](std::size_t h) {
    if (h == self) return;
    view.peers.push_back(hosts_[h].view);
    view.peers.back().closed = hosts_[h].emptied;
  };
  if (awake_.size() <= wanted + 1) {
    for (const std::size_t h : awake_) add(h);
  } else {
    // Partial shuffle of indices: the first `wanted` of a random order, none twice.
    for (std::size_t i = 0; i < wanted; ++i) {
      std::swap(awake_[i], awake_[i + random_() % (awake_.size() - i)]);
      add(awake_[i]);
    }
  }
  std::size_t offered = 0;
  for (std::size_t i = 0; i < asleep_.size() && offered < kSleepersOffered; ++i) {
    add(asleep_[i]);
    ++offered;
  }
}

void NodePolicy::carry_out(const World& world, const std::vector<Decision>& decisions,
                           std::vector<Move>& moves) {
  const auto transfer = [&](std::uint64_t guest, std::size_t from, std::size_t to) {
    const GuestView moved = guest_view(world, static_cast<GuestId>(guest));
    charge(hosts_[to].view, moved, 1);
    charge(hosts_[from].view, moved, -1);
    ++hosts_[to].view.incoming;
    ++hosts_[from].view.outgoing;
    hosts_[to].took = true;
    hosts_[to].last_arrival = hosts_[to].view.last_arrival = now_;
    GuestState& state = guests_[guest];
    state.last_move = now_;
    state.heat += 1;
    state.left = from;
    moves.push_back({static_cast<GuestId>(guest), static_cast<HostId>(to)});
  };
  for (const Decision& decision : decisions) {
    if (observer_) observer_(now_, decision);
    switch (decision.action) {
      case Action::kRefuse:
      case Action::kStay:
        break;
      case Action::kWake:
        hosts_[decision.target].view.awake = true;
        std::erase(asleep_, decision.target);
        awake_.push_back(decision.target);
        break;
      case Action::kSwap:
        transfer(decision.partner, decision.target, decision.source);
        [[fallthrough]];
      case Action::kMove:
        transfer(decision.guest, decision.source, decision.target);
        if (decision.cause == Cause::kConsolidation) hosts_[decision.source].emptied = true;
        break;
    }
  }
}

std::vector<Move> NodePolicy::plan(const World& world) {
  observe(world);
  std::vector<Move> moves;
  // Each node waits a little before it acts, with jitter. To balance: the more loaded, the shorter.
  // To consolidate: the less efficient and the emptier, the shorter. Hosts act one after another,
  // so each sees the reservations of those before it.
  std::vector<std::pair<double, std::size_t>> order;
  for (const std::size_t h : awake_) {
    const HostView& view = hosts_[h].view;
    const double jitter = static_cast<double>(random_() >> 11) * 0x1p-53 * 0.05;
    order.emplace_back(
        jitter + (config_.goal == Goal::kBalance ? -view.demand / view.capacity
                                                 : view.forecast.mean / view.capacity -
                                                       100 * view.power.watts[10] / view.capacity),
        h);
  }
  std::sort(order.begin(), order.end());
  std::vector<std::size_t> acting;
  acting.reserve(order.size());
  for (const auto& [wait, h] : order) acting.push_back(h);
  acting = take_turns(world, acting, moves);
  for (int turn = 1; turn < kTurns && config_.goal == Goal::kBalance; ++turn) {
    acting = take_turns(world, acting, moves);
  }
  return moves;
}

std::vector<std::size_t> NodePolicy::take_turns(const World& world,
                                                const std::vector<std::size_t>& order,
                                                std::vector<Move>& moves) {
  std::vector<std::size_t> again;
  ClusterView view;
  for (const std::size_t h : order) {
    const std::size_t before = moves.size();
    const HostState& state = hosts_[h];
    if (state.took || state.emptied) continue;
    view.now = now_;
    view.self = state.view;
    view.hot = state.detector.hot();
    view.guests.clear();
    view.peers.clear();
    for (const GuestId id : world.hosts()[h].guests) {
      const GuestView guest = guest_view(world, id);
      if (guest.last_move < now_) view.guests.push_back(guest);
    }
    if (!wants_peers(view, config_)) continue;
    ask_peers(view, h);
    carry_out(world, decide(view, config_), moves);
    if (moves.size() > before) again.push_back(h);
  }
  return again;
}

}  // namespace godwit::balancer::simulator
