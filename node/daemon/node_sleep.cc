// Green: a host that consolidation left empty powers down by a hook; a host that is needed is
// woken.
//
// A node that goes to sleep first says so (state "asleep") until its peers have heard it: otherwise
// it would be merely silent to them, and never woken. Until its hook begins, a guest or a word
// wakes it; from then on it takes nothing, because the host may be gone at any moment.
#include <fmt/format.h>
#include <time.h>

#include <algorithm>

#include "node/daemon/hook.h"
#include "node/daemon/json_fields.h"
#include "node/daemon/node.h"

namespace godwit::node {

using nlohmann::json;
using std::chrono::milliseconds;
using Clock = std::chrono::steady_clock;

namespace {

constexpr milliseconds kWord{2000};  // to tell a peer that it is needed
constexpr milliseconds kLook{50};
constexpr double kTryAgain = 600;      // seconds, after a hook that did not work
constexpr double kLeastFrozen = 2;     // seconds between two ticks that only a stop explains
constexpr double kLeastSuspend = 0.5;  // seconds

/// Seconds that this machine was suspended since it booted.
double suspended() {
  timespec boot{};
  timespec awake{};
  ::clock_gettime(CLOCK_BOOTTIME, &boot);
  ::clock_gettime(CLOCK_MONOTONIC, &awake);
  return static_cast<double>(boot.tv_sec - awake.tv_sec) +
         static_cast<double>(boot.tv_nsec - awake.tv_nsec) * 1e-9;
}

}  // namespace

/// Somebody has to stay, to take new guests and to wake the others: whoever has guests, and of
/// empty hosts the first by name. Where a host is expected to be overloaded soon, an empty one has
/// to stay.
bool Node::others_stay_awake() const {
  const std::vector<PeerState> peers = peers_.states();
  const auto figure = [](const PeerState& peer, const char* key) {
    return number_in(field(peer.view, "host"), key).value_or(0);
  };
  const bool soon_needed = std::any_of(peers.begin(), peers.end(), [&](const PeerState& peer) {
    return peer.alive && figure(peer, "expected") > policy_.hot_forecast * figure(peer, "capacity");
  });
  return std::any_of(peers.begin(), peers.end(), [&](const PeerState& peer) {
    const bool empty = figure(peer, "guests") == 0;
    return peer.alive && text_in(peer.view, "state") == "open" &&
           (empty ? peer.name < config_.name : !soon_needed);
  });
}

bool Node::may_sleep(double now) {
  const bool idle = mode_ == Mode::kAutomatic && policy_.goal == balancer::Goal::kConsolidate &&
                    !config_.sleep_hook.empty() && state_ == State::kOpen && guests_.empty() &&
                    moves_.empty() && !sleep_hook_runs_;
  if (!idle) {
    empty_since_ = -1;
    return false;
  }
  if (empty_since_ < 0) empty_since_ = now;
  const double enough = std::chrono::duration<double>(config_.sleep_after).count();
  return now - empty_since_ >= enough && now >= sleep_.not_before && others_stay_awake();
}

void Node::look_after_sleep(double now) {
  const std::lock_guard lock(mutex_);
  const double interval = std::chrono::duration<double>(config_.interval).count();
  const bool frozen = now - last_tick_ > std::max(kLeastFrozen, 3 * interval);
  last_tick_ = now;
  if (state_ != State::kAsleep) {
    if (!may_sleep(now)) return;
    state_ = State::kAsleep;
    sleep_ = {};
    sleep_.announced = now;
    sleep_.record = record_sleep(now - empty_since_);
    return;
  }
  if (!sleep_.powering_down) {
    const double heard = std::chrono::duration<double>(peers_.heard_within()).count();
    if (!guests_.empty() || mode_ != Mode::kAutomatic) {
      get_up("needed before it went to sleep");
    } else if (now - sleep_.announced >= heard) {
      power_down();
    }
    return;
  }
  if (suspended() - sleep_.suspended > kLeastSuspend || frozen) {
    get_up(fmt::format("awake again after {:.0f} s", now - sleep_.announced));
  } else if (sleep_.hook_ended && Clock::now() > *sleep_.hook_ended + config_.hook_timeout) {
    sleep_failed("the hook ended well, but this host runs on");
  }
}

std::uint64_t Node::record_sleep(double empty) {
  return records_.add({{"action", "sleep"},
                       {"cause", "consolidation"},
                       {"obstacle", "none"},
                       {"mode", mode_name(mode_)},
                       {"guest", ""},
                       {"from", config_.name},
                       {"to", config_.name},
                       {"text", fmt::format("sleep (consolidation): host {} has been empty for "
                                            "{:.0f} s",
                                            config_.name, empty)}});
}

/// Under the lock, as all here: the hook runs in a thread of its own.
void Node::power_down() {
  sleep_.powering_down = true;
  sleep_.suspended = suspended();
  if (sleeper_.joinable()) sleeper_.join();  // of a hook that has ended, see may_sleep()
  sleep_hook_runs_ = true;
  sleeper_ = std::thread([this, record = sleep_.record] {
    const std::string why = run_hook(config_.sleep_hook, config_.name, config_.hook_timeout);
    const std::lock_guard lock(mutex_);
    sleep_hook_runs_ = false;
    if (state_ != State::kAsleep || sleep_.record != record) return;  // up again meanwhile
    if (!why.empty()) return sleep_failed(why);
    sleep_.hook_ended = Clock::now();
  });
}

void Node::sleep_failed(const std::string& why) {
  fmt::print(stderr, "godwit: node: {} does not sleep: {}\n", config_.name, why);
  records_.conclude(sleep_.record, {{"status", "failed"}, {"reason", why}});
  state_ = State::kOpen;
  sleep_.not_before = seconds() + kTryAgain;
  empty_since_ = -1;
}

void Node::get_up(const std::string& reason) {
  records_.conclude(sleep_.record, {{"status", "completed"}, {"reason", reason}});
  state_ = State::kOpen;
  empty_since_ = -1;
  // What is known of the peers is as old as the sleep.
  quiet_until_ = seconds() + std::chrono::duration<double>(peers_.heard_within()).count();
}

json Node::wake() {
  const std::lock_guard lock(mutex_);
  if (state_ == State::kAsleep) {
    if (sleep_.powering_down) {
      throw Conflict(config_.name + " is powering down: it has to be woken from outside");
    }
    get_up("needed before it went to sleep");
  }
  return {{"state", state_ == State::kOpen ? "open" : "closed"}};
}

/// Wakes a peer, by a word while it still listens, else by the hook, and waits until it answers
/// that it is open. Records how that ended. Blocks.
bool Node::wake_peer(const std::string& peer, std::uint64_t record) {
  const auto began = Clock::now();
  const auto end = began + config_.wake_timeout;
  auto next_try = began;
  std::string why;
  bool awake = false;
  while (!awake && why.empty()) {
    awake = is_open(peer);
    if (awake) break;
    if (Clock::now() >= next_try) {
      // A machine that is just going down misses the first packet that would wake it.
      next_try = Clock::now() + std::max(kLook, config_.wake_timeout / 4);
      switch (wake_by_word(peer)) {
        case Word::kUp:
          break;
        case Word::kGoingDown:
          next_try = Clock::now() + config_.interval;
          break;
        case Word::kSilent:
          why = run_hook(config_.wake_hook, peer, config_.hook_timeout);
          break;
      }
    }
    if (Clock::now() > end) {
      why = fmt::format("{} does not answer {:g} s after it was woken", peer,
                        std::chrono::duration<double>(config_.wake_timeout).count());
    }
    std::unique_lock lock(mutex_);
    if (changed_.wait_for(lock, kLook, [this] { return ending_; })) why = "this node ended";
  }
  const double took = std::chrono::duration<double>(Clock::now() - began).count();
  const std::lock_guard lock(mutex_);
  if (awake) {
    boot_seconds_ = took;
  } else {
    fmt::print(stderr, "godwit: node: {} does not wake: {}\n", peer, why);
    no_wake_before_[peer] = seconds() + kTryAgain;
  }
  json outcome{{"status", awake ? "completed" : "failed"}, {"reason", why}};
  outcome["total_ms"] = took * 1000;
  records_.conclude(record, outcome);
  return awake;
}

/// As the last one that was woken took; before any, a guess on the safe side.
double Node::boot_seconds() const {
  double seconds = std::chrono::duration<double>(config_.wake_timeout).count() / 5;
  for (const json& record : records_.newest(Records::kKept)) {
    const json& outcome = field(record, "outcome");
    if (text_in(record, "action") != "wake" || text_in(outcome, "status") != "completed") continue;
    seconds = number_in(outcome, "total_ms").value_or(0) / 1000;
  }
  return seconds;
}

bool Node::is_open(const std::string& peer) const {
  const std::vector<PeerState> peers = peers_.states();
  return std::any_of(peers.begin(), peers.end(), [&](const PeerState& state) {
    return state.name == peer && state.alive && text_in(state.view, "state") == "open";
  });
}

Node::Word Node::wake_by_word(const std::string& peer) {
  try {
    peers_.request(peer, "PUT", "/v1/wake", json::object(), kWord);
    return Word::kUp;
  } catch (const ClientError& error) {
    return error.kind() == ClientError::Kind::kRefused ? Word::kGoingDown : Word::kSilent;
  }
}

/// Is this peer, which sleeps, worth a thought?
bool Node::may_wake(const PeerState& peer, double now) const {
  if (!peer.alive && config_.wake_hook.empty()) return false;
  const auto failed = no_wake_before_.find(peer.name);
  return failed == no_wake_before_.end() || now >= failed->second;
}

}  // namespace godwit::node
