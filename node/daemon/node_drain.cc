// Node empties itself: by a plan that is checked to fit before the first move, then one guest after
// another. What it has done shows in its status and its log; a node that begins anew goes on with
// it.
#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <utility>

#include "balancer/rules.h"
#include "node/daemon/json_fields.h"
#include "node/daemon/node.h"

namespace godwit::node {

using balancer::Action;
using balancer::Cause;
using balancer::ClusterView;
using balancer::Decision;
using balancer::HostView;
using nlohmann::json;
using std::chrono::milliseconds;

namespace {

constexpr milliseconds kGuestsKnown{5000};
constexpr double kPatience = 300;  // intervals without a move that succeeds until it gives up
constexpr double kTransient = 3;   // intervals for which what stands in the way is no trouble yet
constexpr unsigned kLongest = 6;   // doublings of the pause after a move that failed
constexpr std::size_t kPeersNamed = 8;

}  // namespace

/// Waits for what has just been started, or is just ending: a round has to have seen all guests,
/// and none on its way into or out of life.
void Node::await_known_guests(std::unique_lock<std::mutex>& lock) {
  const std::uint64_t round = rounds_ + 2;  // the next one that begins after this call
  changed_.wait_for(lock, kGuestsKnown, [&] {
    return rounds_ >= round && std::none_of(guests_.begin(), guests_.end(), [](const auto& entry) {
             const std::string& state = entry.second.state;
             return state == "starting" || state == "booting" || state == "over" ||
                    state == "silent";
           });
  });
}

void Node::check_drainable() const {
  if (state_ == State::kDraining) throw Conflict(config_.name + " is being drained already");
  for (const auto& [name, guest] : guests_) {
    if (guest.under_way()) {
      throw Conflict(fmt::format("{} is on its way: wait for its end", name));
    }
  }
  for (const Move& move : moves_) {
    if (move.done || move.in_doubt) continue;
    throw Conflict(move.guest.empty()
                       ? fmt::format("{} is being woken: wait for that", move.to)
                       : fmt::format("{} is on its way: wait for its end", move.guest));
  }
}

json Node::drain() {
  std::unique_lock lock(mutex_);
  check_drainable();
  await_known_guests(lock);
  check_drainable();  // others could begin something meanwhile
  const State before = std::exchange(state_, State::kDraining);
  Names names;
  const ClusterView view = cluster_view(seconds(), names);
  json plan = json::array();
  for (const Decision& decision : balancer::decide(view, policy_)) {
    if (decision.action == Action::kRefuse) {
      record(decision, view, names);
      state_ = before;
      throw Conflict(fmt::format("{} cannot be drained: {}", config_.name,
                                 drain_obstacle(decision, view, names)));
    }
    if (decision.action == Action::kMove) {
      plan.push_back(
          {{"guest", names.guests[decision.guest]}, {"to", names.host(decision.target)}});
    }
  }
  lock.unlock();
  if (drainer_.joinable()) drainer_.join();  // of an earlier drain
  begin_drain();
  return {{"plan", plan}};
}

/// The state is kDraining already.
void Node::begin_drain() {
  const std::lock_guard lock(mutex_);
  drain_ = {};
  drain_.since = seconds();
  drain_.guests = ids().size();
  set_door();
  drainer_ = std::thread([this] { run_drain(); });
}

/// Why a drain cannot go on, in words. Under the lock.
std::string Node::drain_obstacle(const Decision& refusal, const ClusterView& view,
                                 const Names& names) const {
  const auto named = names.guests.find(refusal.guest);
  const auto found = named == names.guests.end() ? guests_.end() : guests_.find(named->second);
  if (found == guests_.end()) return balancer::name(refusal.obstacle);
  const auto& [name, guest] = *found;
  switch (refusal.obstacle) {
    case balancer::Obstacle::kPinned:
      return guest.attributes.pinned   ? name + " is pinned"
             : guest.state == "silent" ? name + " does not answer"
                                       : fmt::format("{} is {}", name, guest.state);
    case balancer::Obstacle::kBusy:
      return guest.promised.empty() ? name + " is on its way"
                                    : name + " is promised to another node just now";
    case balancer::Obstacle::kNoTarget:
      break;
    default:
      return fmt::format("{}: {}", name, balancer::name(refusal.obstacle));
  }
  std::string text = fmt::format("{} ({:.0f} MB) fits nowhere", name, guest.memory);
  if (!guest.attributes.together.empty()) {
    text = fmt::format("{} and the others of its group {} fit on no one host", name,
                       guest.attributes.together);
  }
  const std::vector<PeerState> peers = peers_.states();
  if (peers.empty()) return text + ": this node has no peers";
  for (std::size_t i = 0; i < std::min(peers.size(), kPeersNamed); ++i) {
    text += i == 0 ? ": " : "; ";
    text += against(guest, peers[i], i + 1, view);
  }
  if (peers.size() > kPeersNamed) text += fmt::format("; and {} more", peers.size() - kPeersNamed);
  return text;
}

/// Why a peer, the host of that id in the view, does not take a guest.
std::string Node::against(const ManagedGuest& guest, const PeerState& peer, std::uint64_t id,
                          const ClusterView& view) const {
  const auto host = std::find_if(view.peers.begin(), view.peers.end(),
                                 [&](const HostView& one) { return one.id == id; });
  const auto wanted = std::find_if(view.guests.begin(), view.guests.end(),
                                   [&](const auto& one) { return one.id == guest.id; });
  if (host == view.peers.end()) return peer.name + (peer.asleep ? " sleeps" : " does not answer");
  if (!balancer::sane(*host)) return peer.name + " tells nonsense of itself";
  if (wanted == view.guests.end()) return peer.name;
  switch (balancer::broken_rule(*wanted, *host)) {
    case balancer::Rule::kDown:
      return peer.name + " does not answer";
    case balancer::Rule::kClosed:
      return peer.name + " is closed";
    case balancer::Rule::kNeeds: {
      const json& has = list_in(field(peer.view, "host"), "capabilities");
      const auto lacking =
          std::find_if(guest.attributes.needs.begin(), guest.attributes.needs.end(),
                       [&](const std::string& need) {
                         return std::find(has.begin(), has.end(), need) == has.end();
                       });
      return fmt::format("{} has no {}", peer.name,
                         lacking == guest.attributes.needs.end() ? "such thing" : *lacking);
    }
    case balancer::Rule::kMemory:
      return fmt::format("{} has {:.0f} of {:.0f} MB left", peer.name,
                         std::max(0.0, host->memory - host->memory_used), host->memory);
    case balancer::Rule::kApart:
      return fmt::format("{} has one of the group {}", peer.name, guest.attributes.apart);
    case balancer::Rule::kCore:
      return peer.name + " has too few cores for it";
    case balancer::Rule::kNone:
      break;
  }
  if (!balancer::has_room(balancer::with(host->forecast, wanted->forecast), *host, policy_)) {
    return peer.name + " would be above its threshold";
  }
  return peer.name + " has room for the others only";
}

/// One guest after another, planned anew before each: the cluster goes on living meanwhile.
void Node::run_drain() {
  unsigned failures = 0;  // in a row
  while (auto step = next_step()) {
    if (step->what == DrainStep::What::kWake) {
      wake_peer(step->to, records_.add(step->entry));
      continue;
    }
    if (step->what == DrainStep::What::kMove) {
      try {
        drain_one(*step);
        failures = 0;
        continue;
      } catch (const Busy& busy) {
        const std::lock_guard lock(mutex_);
        drain_.since = seconds();  // it gets on elsewhere
        say_of_drain(fmt::format("waiting: {}", busy.what()));
      } catch (const std::exception& error) {
        const std::lock_guard lock(mutex_);
        ++failures;
        say_of_drain(fmt::format("{} to {}: {}", step->guest, step->to, error.what()));
      }
    }
    // Longer after each failure.
    const auto pause = config_.interval * (1u << std::min(failures, kLongest));
    std::unique_lock lock(mutex_);
    changed_.wait_for(lock, pause, [this] { return ending_ || state_ != State::kDraining; });
  }
}

/// Blocks; throws when it does not move.
void Node::drain_one(const DrainStep& step) {
  const json report =
      move_guest(step.guest, step.to, {Cause::kDrain, 0, step.entry}, json::object());
  if (text_in(report, "status") != "completed") {
    throw Conflict(text_in(report, "reason").value_or("the move failed"));
  }
  const double total_ms = number_in(report, "total_ms").value_or(0);
  const std::lock_guard lock(mutex_);
  if (state_ != State::kDraining) return;  // it was stopped meanwhile
  drain_.since = seconds();
  drain_.trouble.clear();
  drain_.moved.push_back({{"guest", step.guest}, {"to", step.to}, {"total_ms", total_ms}});
  fmt::print(stderr, "godwit: node: drain: {} at {}, {} of {}, {:.1f} s\n", step.guest, step.to,
             drain_.moved.size(), drain_.guests, total_ms / 1000);
}

/// Empty when the drain is over, in one way or another.
std::optional<Node::DrainStep> Node::next_step() {
  const std::lock_guard lock(mutex_);
  if (ending_ || state_ != State::kDraining) return {};
  const double now = seconds();
  const std::size_t left = ids().size();
  if (left == 0) {
    end_drain("empty, and closed until godwit undrain");
    drain_.trouble.clear();
    return {};
  }
  Names names;
  const ClusterView view = cluster_view(now, names);
  if (view.guests.empty() || view.self.outgoing > 0) {
    drain_.since = now;  // somebody arrives, or is on its way since before
    return DrainStep{};
  }
  std::string obstacle = drain_.trouble;
  DrainStep step;
  for (const Decision& decision : balancer::decide(view, policy_)) {
    if (decision.action == Action::kRefuse) obstacle = drain_obstacle(decision, view, names);
    const auto target =
        std::find_if(view.peers.begin(), view.peers.end(),
                     [&](const HostView& peer) { return peer.id == decision.target; });
    const bool move = decision.action == Action::kMove && target->awake;
    const bool free = move && target->incoming < policy_.incoming_limit;
    if (!move && decision.action != Action::kWake) continue;
    if (!free && step.what != DrainStep::What::kWait) continue;
    step = {move ? DrainStep::What::kMove : DrainStep::What::kWake, names.guests[decision.guest],
            names.host(decision.target), entry_of(decision, view, names)};
    if (free) break;  // rather than one whose target takes another just now
  }
  const double stuck = now - drain_.since;
  const double interval = std::chrono::duration<double>(config_.interval).count();
  if (stuck > kPatience * interval) {
    end_drain(
        fmt::format("given up with {} guests left, {}; godwit drain tries again", left, obstacle));
    return {};
  }
  if (step.what == DrainStep::What::kWait && stuck > kTransient * interval) {
    say_of_drain("waiting: " + obstacle);
  }
  return step;
}

/// Under the lock.
void Node::end_drain(const std::string& how) {
  state_ = State::kClosed;
  set_door();
  say_of_drain(how);
}

/// Under the lock.
void Node::say_of_drain(const std::string& trouble) {
  if (std::exchange(drain_.trouble, trouble) != trouble) {
    fmt::print(stderr, "godwit: node: drain: {}\n", trouble);
  }
}

json Node::undrain() {
  const std::lock_guard lock(mutex_);
  if (state_ == State::kAsleep) get_up("opened by a person");
  state_ = State::kOpen;
  set_door();
  empty_since_ = -1;
  drain_ = {};
  return {{"name", config_.name}, {"state", "open"}};
}

/// A host that was closed for maintenance is still closed after a reboot, and one that was being
/// drained goes on with that.
void Node::set_door() const {
  const std::string file = config_.directory + "/closed";
  std::error_code ignored;
  if (state_ == State::kOpen) {
    std::filesystem::remove(file, ignored);
  } else {
    std::ofstream(file) << (state_ == State::kDraining ? "draining" : "closed")
                        << ": godwit undrain opens this host again\n";
  }
}

void Node::look_at_door() {
  std::ifstream file(config_.directory + "/closed");
  std::string word;
  if (!file) return;
  file >> word;
  state_ = word == "draining:" ? State::kDraining : State::kClosed;
  if (state_ != State::kDraining) return;
  fmt::print(stderr,
             "godwit: node: the drain that a restart interrupted goes on, {} guests are left\n",
             ids().size());
  begin_drain();
}

}  // namespace godwit::node
