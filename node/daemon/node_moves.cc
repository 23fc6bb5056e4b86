// What Node does about its load: decides, and begins to move.
#include <fmt/format.h>

#include <algorithm>
#include <bit>

#include "balancer/damping.h"
#include "node/daemon/json_fields.h"
#include "node/daemon/node.h"

namespace godwit::node {

using balancer::Action;
using balancer::Cause;
using balancer::ClusterView;
using balancer::Decision;
using nlohmann::json;
using Clock = std::chrono::steady_clock;

namespace {

constexpr int kPlanned = 1000;  // moves in a plan

/// Staying, with the figures of the move that is not made.
Decision instead_of(Decision move, balancer::Obstacle obstacle) {
  move.action = Action::kStay;
  move.obstacle = obstacle;
  move.target = move.source;
  return move;
}

/// A plan of several moves is carried out one by one, each seen anew: the limits of moves in flight
/// bind hosts that are busy now, not the plan.
std::vector<Decision> planned(ClusterView view, balancer::PolicyConfig policy) {
  for (balancer::HostView& peer : view.peers) {
    if (peer.incoming >= policy.incoming_limit) peer.incoming = kPlanned;
    if (peer.outgoing >= policy.outgoing_limit) peer.outgoing = kPlanned;
  }
  policy.incoming_limit = policy.outgoing_limit = kPlanned;
  return balancer::decide(view, policy);
}

}  // namespace

std::vector<Decision> Node::consider(ClusterView& view) {
  const double now = view.now;
  hot_ = detector_.add(view.self.demand, view.self.forecast, view.self.capacity, policy_);
  view.hot = hot_;
  rise_.add(now, self_view().forecast.mean, guests_.size());
  if (mode_ == Mode::kOff || state_ != State::kOpen || now < quiet_until_) return {};
  // Their end changes the picture.
  if (moves_are_under_way() || view.self.outgoing > 0 || view.self.incoming > 0) return {};
  const std::uint64_t wanted_before = wanted_ << 1;
  wanted_ = wanted_before;
  if (!balancer::wants_peers(view, policy_)) return {};
  std::vector<Decision> decisions = planned(view, policy_);
  const auto move = std::find_if(decisions.begin(), decisions.end(), [&](const Decision& decision) {
    return decision.action == Action::kMove || decision.action == Action::kSwap ||
           (decision.action == Action::kWake && !hot_);
  });
  if (move == decisions.end()) return decisions;
  wanted_ = wanted_before | 1;
  // Overload has been seen to persist (detection.h); any other reason has to, by the same measure.
  const int n = std::clamp(policy_.hot_n, 1, 64);
  const std::uint64_t recent = wanted_ & (~std::uint64_t{0} >> (64 - n));
  if (hot_ || std::popcount(recent) >= policy_.hot_k) {
    const double interval = std::chrono::duration<double>(config_.interval).count();
    const double patience = balancer::patience(*move, view.self.capacity, policy_);
    return turn_.come(now, interval, patience, random_) ? decisions : std::vector<Decision>{};
  }
  return {instead_of(*move, balancer::Obstacle::kNotPersistent)};
}

void Node::balance(double now) {
  const std::lock_guard lock(mutex_);
  Names names;
  ClusterView view = cluster_view(now, names);
  const std::vector<Decision> decisions = consider(view);
  for (const Decision& decision : decisions) {
    const std::uint64_t id = record(decision, view, names);
    if (mode_ == Mode::kAutomatic) carry_out(decision, id, names);
    // One step, then a fresh look: the next round sees what this one changed. What a woken host is
    // for is decided once it is awake.
    if (decision.action == Action::kMove || decision.action == Action::kSwap) break;
    if (decision.action == Action::kWake && mode_ == Mode::kAutomatic) break;
  }
}

void Node::carry_out(const Decision& decision, std::uint64_t id, const Names& names) {
  switch (decision.action) {
    case Action::kStay:
    case Action::kRefuse:
      return;
    case Action::kWake:
      launch("", names.host(decision.target),
             [this, peer = names.host(decision.target), id] { wake_peer(peer, id); });
      return;
    case Action::kMove:
    case Action::kSwap:
      break;
  }
  const auto guest = names.guests.find(decision.guest);
  if (guest == names.guests.end()) return;
  const std::string peer = names.host(decision.target);
  if (decision.action == Action::kSwap) {
    const auto partner = names.guests.find(decision.partner);
    if (partner == names.guests.end()) return;
    launch(guest->second, peer, [this, name = guest->second, peer, other = partner->second, id] {
      swap_guests(name, peer, other, id);
    });
    return;
  }
  launch(guest->second, peer,
         [this, name = guest->second, peer, errand = Errand{decision.cause, id, {}}] {
           move_guest(name, peer, errand, json::object());
         });
}

void Node::launch(const std::string& guest, const std::string& peer, std::function<void()> work) {
  Move& move = moves_.emplace_back(Move{guest, peer, Clock::now(), {}, false, false});
  move.thread = std::thread([this, &move, guest, peer, work = std::move(work)] {
    try {
      work();
    } catch (const std::exception& error) {
      fmt::print(stderr, "godwit: node: {} does not move to {}: {}\n", guest, peer, error.what());
    }
    const std::lock_guard lock(mutex_);
    move.done = true;
    changed_.notify_all();
  });
}

Node::Leaving Node::begin_move(const std::string& name, const std::string& to) {
  const std::lock_guard lock(mutex_);
  ManagedGuest* guest = find(name);
  if (guest == nullptr || guest->reserved || guest->gone)
    throw Conflict(fmt::format("no guest called {} is here", name));
  if (guest->leaving()) throw Conflict(fmt::format("{} is on its way already", name));
  if (guest->state == "silent") throw Conflict(fmt::format("{} does not answer", name));
  if (!guest->promised.empty())
    throw Conflict(fmt::format("{} is promised to another node just now", name));
  check_outgoing(name);
  guest->moving = true;
  guest->going.to = to;
  return {description_of(*guest), guest->coming};
}

/// May one more guest leave? Who is promised will. Under the lock.
void Node::check_outgoing(const std::string& name) const {
  int others = 0;
  std::string who;
  for (const auto& [its, guest] : guests_) {
    if (its == name || !(guest.under_way() || !guest.promised.empty())) continue;
    ++others;
    who = its;
  }
  if (others < policy_.outgoing_limit) return;
  throw Busy(fmt::format("{} moves as many guests as it may at a time ({}): {} is on its way",
                         config_.name, policy_.outgoing_limit, who));
}

/// The guest's own move: its report, or null and why there is none. A node that comes after this
/// one finds out about it. Blocks.
json Node::send(const std::string& name, const ManagedGuest::Going& going, json settings,
                std::string& why) {
  std::string api;
  {
    const std::lock_guard lock(mutex_);
    ManagedGuest* guest = find(name);
    if (guest == nullptr) {
      why = fmt::format("{} has ended", name);
      return {};
    }
    guest->going = going;
    keep(*guest);
    api = guest->api;
  }
  settings["to"] = going.address;
  if (text_in(settings, "transport").value_or("auto") == "auto") {
    settings["transport"] = config_.transport;
  }
  if (config_.compress) settings["compress"] = true;
  // Named here, too, for guests that were started by somebody else.
  if (config_.tls) {
    settings["tls"] = {{"ca", config_.tls->ca},
                       {"certificate", config_.tls->certificate},
                       {"key", config_.tls->key},
                       {"name", going.to}};
  }
  json report;
  try {
    report = NodeClient(api, nullptr).request("POST", "/v1/migrate", settings, kMoveTimeout);
    why = text_in(report, "reason").value_or("");
  } catch (const ClientError& error) {
    why = error.what();
  }
  return report;
}

bool Node::moves_are_under_way() const {
  return std::any_of(moves_.begin(), moves_.end(), [](const Move& move) { return !move.in_doubt; });
}

json Node::migrate(const std::string& guest, const std::string& peer, const json& settings) {
  Errand errand{Cause::kHand, 0, {}};
  {
    const std::lock_guard lock(mutex_);
    Names names;
    const ClusterView view = cluster_view(seconds(), names, peer);
    const auto target = std::find(names.hosts.begin(), names.hosts.end(), peer);
    const ManagedGuest* found = find(guest);
    const Decision decision =
        balancer::describe(view, policy_, found == nullptr ? 0 : found->id,
                           static_cast<std::uint64_t>(target - names.hosts.begin()), Cause::kHand);
    errand.entry = entry_of(decision, view, names);
  }
  return move_guest(guest, peer, std::move(errand), settings);
}

}  // namespace godwit::node
