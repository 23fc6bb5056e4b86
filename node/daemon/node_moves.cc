// What Node does about its load: decides, records, moves, judges what came of it, and drains.
#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <set>

#include "balancer/rules.h"
#include "node/daemon/json_fields.h"
#include "node/daemon/node.h"

namespace godwit::node {

using balancer::Action;
using balancer::Cause;
using balancer::ClusterView;
using balancer::Decision;
using nlohmann::json;
using std::chrono::milliseconds;
using Clock = std::chrono::steady_clock;

namespace {

constexpr double kLeastRelief =
    0.02;  // of a host's load: what evens out less is noise, however cheap
constexpr double kRecordAgain = 600;  // seconds: an unchanged reason to stay, or advice
constexpr double kSettled = 30;       // seconds after a move until its effect is judged
constexpr double kUndone = 900;       // a guest moved on within that undoes the move before
constexpr int kDrainTries = 3;
constexpr milliseconds kGuestsKnown{5000};

std::string host_name(const std::vector<std::string>& hosts, std::uint64_t id) {
  return id < hosts.size() ? hosts[id] : "?";
}

/// Staying, with the figures of the move that is not made.
Decision instead_of(Decision move, balancer::Obstacle obstacle) {
  move.action = Action::kStay;
  move.obstacle = obstacle;
  move.target = move.source;
  return move;
}

json host_figures(const balancer::HostView& host, const std::string& name) {
  return {{"name", name},
          {"load", host.demand / host.capacity},
          {"forecast_load", host.forecast.mean / host.capacity},
          {"memory_used", host.memory_used},
          {"memory", host.memory},
          {"incoming", host.incoming},
          {"outgoing", host.outgoing},
          {"closed", host.closed}};
}

}  // namespace

std::vector<Decision> Node::consider(ClusterView& view) {
  const double now = view.now;
  hot_ = detector_.add(view.self.demand, view.self.forecast, view.self.capacity, policy_);
  view.hot = hot_;
  if (mode_ == Mode::kOff || state_ != State::kOpen || now < quiet_until_) return {};
  if (!moves_.empty() || view.self.incoming > 0) return {};  // their end changes the picture
  const std::uint64_t wanted_before = wanted_ << 1;
  wanted_ = wanted_before;
  if (!balancer::wants_peers(view, policy_)) return {};
  std::vector<Decision> decisions = balancer::decide(view, policy_);
  const auto move = std::find_if(decisions.begin(), decisions.end(), [](const Decision& decision) {
    return decision.action == Action::kMove || decision.action == Action::kSwap;
  });
  if (move == decisions.end()) return decisions;
  if (move->cause == Cause::kImbalance && move->source_before - move->source_after < kLeastRelief) {
    return {instead_of(*move, balancer::Obstacle::kNotWorthIt)};
  }
  wanted_ = wanted_before | 1;
  // Overload has been seen to persist (detection.h); any other reason has to, by the same measure.
  const int n = std::clamp(policy_.hot_n, 1, 64);
  const std::uint64_t recent = wanted_ & (~std::uint64_t{0} >> (64 - n));
  if (move->cause == Cause::kOverload || std::popcount(recent) >= policy_.hot_k) {
    return decisions;
  }
  return {instead_of(*move, balancer::Obstacle::kNotPersistent)};
}

std::uint64_t Node::record(const Decision& decision, const ClusterView& view, const Names& names) {
  const auto guest = [&](std::uint64_t id) {
    const auto found = names.guests.find(id);
    return found == names.guests.end() ? std::string() : found->second;
  };
  json entry{{"action", balancer::name(decision.action)},
             {"cause", balancer::name(decision.cause)},
             {"obstacle", balancer::name(decision.obstacle)}};
  const bool acts = decision.action == Action::kMove || decision.action == Action::kSwap ||
                    decision.action == Action::kWake;
  const double now = view.now;
  if (!acts) ++counters_["refusals"];
  if (!acts || (mode_ == Mode::kAdvise && decision.cause != Cause::kDrain)) {
    if (entry == last_unchanged_ && now - last_recorded_ < kRecordAgain) return 0;
    last_unchanged_ = entry;
    last_recorded_ = now;
  } else {
    last_unchanged_ = nullptr;
  }
  entry["guest"] = guest(decision.guest);
  if (decision.action == Action::kSwap) entry["partner"] = guest(decision.partner);
  entry["from"] = config_.name;
  entry["to"] = host_name(names.hosts, decision.target);
  entry["benefit"] = decision.benefit;
  entry["cost"] = decision.cost;
  entry["predicted"] = {{"seconds", decision.seconds},
                        {"downtime_s", decision.downtime},
                        {"source_before", decision.source_before},
                        {"source_after", decision.source_after},
                        {"target_before", decision.target_before},
                        {"target_after", decision.target_after}};
  entry["mode"] = mode_name(mode_);
  entry["text"] = balancer::explain(
      decision, [&](std::uint64_t id) { return guest(id); },
      [&](std::uint64_t id) { return host_name(names.hosts, id); });
  entry["inputs"] = {
      {"self", host_figures(view.self, config_.name)}, {"hot", view.hot}, {"peers", json::array()}};
  for (const balancer::HostView& peer : view.peers) {
    entry["inputs"]["peers"].push_back(host_figures(peer, host_name(names.hosts, peer.id)));
  }
  return records_.add(std::move(entry));
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
      launch("", host_name(names.hosts, decision.target),
             [this, peer = host_name(names.hosts, decision.target), id] { wake_peer(peer, id); });
      return;
    case Action::kMove:
    case Action::kSwap:
      break;
  }
  const auto guest = names.guests.find(decision.guest);
  if (guest == names.guests.end()) return;
  const std::string peer = host_name(names.hosts, decision.target);
  if (decision.action == Action::kSwap) {
    const auto partner = names.guests.find(decision.partner);
    if (partner == names.guests.end()) return;
    launch(guest->second, peer, [this, name = guest->second, peer, other = partner->second, id] {
      swap_guests(name, peer, other, id);
    });
    return;
  }
  launch(guest->second, peer,
         [this, name = guest->second, peer, id] { move_guest(name, peer, id, json::object()); });
}

void Node::launch(const std::string& guest, const std::string& peer, std::function<void()> work) {
  Move& move = moves_.emplace_back(Move{guest, peer, Clock::now(), {}, false});
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

Node::Leaving Node::begin_move(const std::string& name, const std::string& peer) {
  const std::lock_guard lock(mutex_);
  ManagedGuest* guest = find(name);
  if (guest == nullptr || guest->reserved)
    throw Conflict(fmt::format("no guest called {} is here", name));
  if (guest->moving) throw Conflict(fmt::format("{} is on its way already", name));
  if (!guest->promised.empty())
    throw Conflict(fmt::format("{} is promised to another node just now", name));
  guest->moving = true;
  Leaving leaving{guest->api, description_of(*guest), 0};
  const balancer::HostView self = self_view();
  leaving.load_before = self.forecast.mean / self.capacity;
  if (guest->last_move > seconds() - kUndone && guest->left == peer) ++counters_["moves_undone"];
  return leaving;
}

/// The guest's own move: its report, or null and why there is none. Blocks.
json Node::send(const std::string& api, const json& settings, std::string& why) const {
  json report;
  try {
    report = NodeClient(api, nullptr).request("POST", "/v1/migrate", settings, kMoveTimeout);
    why = text_in(report, "reason").value_or("");
  } catch (const ClientError& error) {
    why = error.what();
  }
  return report;
}

/// Under the lock.
void Node::end_move(const std::string& name, bool completed) {
  ++counters_[completed ? "moves_completed" : "moves_failed"];
  ManagedGuest* guest = find(name);
  if (guest == nullptr) return;
  if (completed) {
    guest->gone = true;
    return;
  }
  guest->moving = false;
  guest->last_move = seconds();  // not the same again at once
  keep(*guest);
}

/// Under the lock.
void Node::conclude_record(std::uint64_t record, const json& outcome, double load_before) {
  const double now = seconds();
  records_.conclude(record, outcome);
  const std::string status = text_in(outcome, "status").value_or("");
  if (status == "completed" || status == "half") {
    verdicts_.push_back({record, now + kSettled, load_before});
  }
  // The peer's view of itself, and ours of it, are stale now.
  std::uniform_real_distribution<double> jitter(1, 3);
  const double interval = std::chrono::duration<double>(config_.interval).count();
  quiet_until_ = now + interval * jitter(random_);
}

/// Reserves at the peer, moves, and sees to it that the reservation does not outlive the attempt.
json Node::move_guest(const std::string& name, const std::string& peer, std::uint64_t record,
                      json settings) {
  const Leaving leaving = begin_move(name, peer);
  json report;
  std::string why;
  try {
    const json place = peers_.request(
        peer, "POST", "/v1/reservations",
        {{"guest", leaving.description}, {"from", config_.name}, {"forced", record == 0}},
        kReserveTimeout);
    settings["to"] = text_in(place, "address").value_or("");
    report = send(leaving.api, settings, why);
    if (text_in(report, "status") != "completed") {
      const std::string target = "/v1/reservations/" + text_in(place, "id").value_or("");
      peers_.request(peer, "DELETE", target, nullptr, kReleaseTimeout);
    }
  } catch (const std::exception& error) {
    if (why.empty()) why = error.what();
  }
  const bool completed = text_in(report, "status") == "completed";
  const std::lock_guard lock(mutex_);
  end_move(name, completed);
  if (record != 0) {
    json outcome{{"status", text_in(report, "status").value_or("failed")}, {"reason", why}};
    for (const char* key : {"total_ms", "downtime_ms", "transport"})
      outcome[key] = field(report, key);
    conclude_record(record, outcome, leaving.load_before);
  }
  if (!completed && report.is_null()) throw Conflict(why);
  report["peer"] = peer;
  return report;
}

json Node::migrate(const std::string& guest, const std::string& peer, const json& settings) {
  return move_guest(guest, peer, 0, settings);
}

/// Did the load fall as was promised?
void Node::judge(double now) {
  const std::lock_guard lock(mutex_);
  const balancer::HostView self = self_view();
  const double load = self.forecast.mean / self.capacity;
  std::erase_if(verdicts_, [&](const Verdict& verdict) {
    if (now < verdict.due) return false;
    records_.conclude(verdict.record, {{"source_load_before", verdict.load_before},
                                       {"source_load_later", load},
                                       {"relieved", load < verdict.load_before}});
    return true;
  });
}

json Node::drain() {
  std::unique_lock lock(mutex_);
  if (state_ == State::kDraining) throw Conflict(config_.name + " is being drained already");
  if (!moves_.empty()) throw Conflict("a move is under way: wait for its end");
  const auto known = [this] {
    return std::none_of(guests_.begin(), guests_.end(), [](const auto& entry) {
      return entry.second.state == "starting" || entry.second.state == "booting";
    });
  };
  changed_.wait_for(lock, kGuestsKnown, known);  // what has just been started
  const State before = state_;
  state_ = State::kDraining;
  Names names;
  const ClusterView view = cluster_view(seconds(), names);
  json plan = json::array();
  for (const Decision& decision : balancer::decide(view, policy_)) {
    const std::uint64_t id = record(decision, view, names);
    if (decision.action == Action::kRefuse) {
      state_ = before;
      throw Conflict(
          fmt::format("{} cannot be drained: {}", config_.name,
                      balancer::explain(
                          decision,
                          [&](std::uint64_t guest) {
                            const auto found = names.guests.find(guest);
                            return found == names.guests.end() ? "?" : found->second;
                          },
                          [&](std::uint64_t host) { return host_name(names.hosts, host); })));
    }
    if (decision.action == Action::kMove) {
      plan.push_back({{"guest", names.guests[decision.guest]},
                      {"to", host_name(names.hosts, decision.target)},
                      {"record", id}});
    }
  }
  drain_trouble_.clear();
  set_closed(true);
  lock.unlock();
  if (drainer_.joinable()) drainer_.join();
  drainer_ = std::thread([this] { run_drain(); });
  return {{"plan", plan}};
}

/// One guest after another, planned anew before each: the cluster goes on living meanwhile.
void Node::run_drain() {
  int failures = 0;
  for (;;) {
    std::string guest;
    std::string target;
    bool wake = false;
    std::uint64_t id = 0;
    {
      std::unique_lock lock(mutex_);
      if (ending_ || state_ != State::kDraining) return;
      if (std::all_of(guests_.begin(), guests_.end(),
                      [](const auto& entry) { return entry.second.gone; })) {
        state_ = State::kClosed;
        return;
      }
      Names names;
      const ClusterView view = cluster_view(seconds(), names);
      for (const Decision& decision : balancer::decide(view, policy_)) {
        if (decision.action == Action::kRefuse && failures == 0) {
          drain_trouble_ = fmt::format("waiting: {}", balancer::name(decision.obstacle));
        }
        wake = decision.action == Action::kWake;
        if (decision.action != Action::kMove && !wake) continue;
        guest = names.guests[decision.guest];
        target = host_name(names.hosts, decision.target);
        id = record(decision, view, names);
        break;
      }
      if (guest.empty() && !wake) {
        changed_.wait_for(lock, config_.interval);
        if (++failures > 100 * kDrainTries) {
          state_ = State::kClosed;
          drain_trouble_ = "given up: no peer takes the guests that are left";
          return;
        }
        continue;
      }
    }
    if (wake) {
      wake_peer(target, id);
      continue;
    }
    try {
      const json report = move_guest(guest, target, id, json::object());
      if (text_in(report, "status") == "completed") {
        failures = 0;
        const std::lock_guard lock(mutex_);
        drain_trouble_.clear();
        continue;
      }
      throw Conflict(text_in(report, "reason").value_or("the move failed"));
    } catch (const std::exception& error) {
      std::unique_lock lock(mutex_);
      drain_trouble_ = fmt::format("{} to {}: {}", guest, target, error.what());
      if (++failures >= 10 * kDrainTries) {
        state_ = State::kClosed;
        return;
      }
      changed_.wait_for(lock, config_.interval);
    }
  }
}

}  // namespace godwit::node
