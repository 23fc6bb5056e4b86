#include "balancer/simulator/node_policy.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <queue>

#include "balancer/offers.h"
#include "balancer/rules.h"

namespace godwit::balancer::simulator {

namespace {
constexpr std::size_t kSleepersOffered = 2;
constexpr double kHeatHalfLife = 3600;  // seconds
constexpr int kLooks = 16;              // of a node between two samples

// What the first of these gains for each guest that it moves; of relief more than of anything.
double gain_of(const std::vector<Decision>& decisions) {
  for (const Decision& decision : decisions) {
    if (decision.action != Action::kSwap && decision.action != Action::kMove) continue;
    if (decision.cause == Cause::kOverload) return std::numeric_limits<double>::max();
    return gain_each(decision);
  }
  return 0;
}
}  // namespace

double NodePolicy::chance() { return static_cast<double>(random_() >> 11) * 0x1p-53; }

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
    std::vector<GuestView> guests;
    for (const GuestId id : host.guests) {
      const Guest& guest = world.guests()[id];
      GuestState& load = guests_[id];
      load.load.add(guest.requested, config_);
      load.heat *= decay;
      load.forecast = load.load.forecast(guest.mips, config_);
      view.demand += guest.requested;
      view.memory_used += guest.ram;
      view.forecast = with(view.forecast, load.forecast);
      guests.push_back(guest_view(world, id));
    }
    view.offers = offers(std::move(guests), now_, config_);
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
  std::size_t asked = 0;
  const auto add = [&](std::size_t h) {
    if (h == self) return;
    if (asked == view.peers.size()) view.peers.emplace_back();
    view.peers[asked] = hosts_[h].view;  // into memory of the answers before
    view.peers[asked++].closed = hosts_[h].emptied;
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
  view.peers.resize(asked);
}

void NodePolicy::carry_out(const World& world, const std::vector<Decision>& decisions,
                           std::vector<Move>& moves) {
  const auto transfer = [&](std::uint64_t guest, std::size_t from, std::size_t to) {
    const GuestView moved = guest_view(world, static_cast<GuestId>(guest));
    charge(hosts_[to].view, moved, 1);
    charge(hosts_[from].view, moved, -1);
    std::erase_if(hosts_[from].view.offers,
                  [&](const GuestView& offer) { return offer.id == guest; });
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
  return config_.goal == Goal::kBalance ? take_by_gain(world) : take_turns(world);
}

std::vector<Decision> NodePolicy::look(const World& world, std::size_t host) {
  const HostState& state = hosts_[host];
  view_.now = now_;
  view_.self = state.view;
  view_.hot = state.detector.hot();
  view_.guests.clear();
  for (const GuestId id : world.hosts()[host].guests) {
    const GuestView guest = guest_view(world, id);
    if (guest.last_move < now_) view_.guests.push_back(guest);
  }
  if (!wants_peers(view_, config_)) return {};
  ask_peers(view_, host);
  return decide(view_, config_);
}

// Each node waits a little before it acts, with jitter: the less efficient and the emptier, the
// shorter. So each sees the reservations of those before it.
std::vector<Move> NodePolicy::take_turns(const World& world) {
  std::vector<std::pair<double, std::size_t>> order;
  for (const std::size_t h : awake_) {
    const HostView& view = hosts_[h].view;
    order.emplace_back(0.05 * chance() + view.forecast.mean / view.capacity -
                           100 * view.power.watts[10] / view.capacity,
                       h);
  }
  std::sort(order.begin(), order.end());
  std::vector<Move> moves;
  for (const auto& [wait, h] : order) {
    if (hosts_[h].took || hosts_[h].emptied) continue;
    carry_out(world, look(world, h), moves);
  }
  return moves;
}

// The wait, with jitter, is the shorter the more the node's best move gains, and when it is over
// the node looks again: by then others have acted. A live one decides every second, so between two
// samples it has time for this.
std::vector<Move> NodePolicy::take_by_gain(const World& world) {
  std::vector<Move> moves;
  std::priority_queue<std::pair<double, std::size_t>> waiting;
  std::vector<int> looks(hosts_.size(), 0);
  // Whether it acts, having waited for as long as a move of this gain is worth.
  const auto act = [&](std::size_t h, double least) {
    if (++looks[h] > kLooks) return false;
    const std::vector<Decision> decisions = look(world, h);
    const double gain = gain_of(decisions);
    if (gain > 0 && gain < least) {
      waiting.emplace(gain * (1 - 0.05 * chance()), h);
      return false;
    }
    carry_out(world, decisions, moves);
    return gain > 0;
  };
  for (const std::size_t h : awake_) act(h, std::numeric_limits<double>::max());
  while (!waiting.empty()) {
    const std::size_t h = waiting.top().second;
    waiting.pop();
    if (act(h, waiting.empty() ? 0 : waiting.top().first)) {
      act(h, std::numeric_limits<double>::max());
    }
  }
  return moves;
}

}  // namespace godwit::balancer::simulator
