#include "node/daemon/node.h"

#include <fmt/format.h>
#include <time.h>

#include <filesystem>
#include <fstream>

#include "node/exit_codes.h"

namespace godwit::node {

using nlohmann::json;

namespace {

std::string made(const std::string& directory) {
  for (const char* below : {"", "/guests", "/log", "/console"}) {
    std::filesystem::create_directories(directory + below);
  }
  return directory;
}

}  // namespace

Node::Node(NodeConfig config, const std::shared_ptr<const tls::Context>& tls)
    : config_(std::move(config)),
      records_(made(config_.directory) + "/decisions.jsonl"),
      mode_(config_.mode),
      policy_(config_.policy),
      peers_(config_, tls) {
  adopt();
  end_orphans();
  if (std::filesystem::exists(config_.directory + "/closed")) state_ = State::kClosed;
  ticker_ = std::thread([this] { tick(); });
}

Node::~Node() {
  {
    const std::lock_guard lock(mutex_);
    ending_ = true;
  }
  changed_.notify_all();
  ticker_.join();
  if (drainer_.joinable()) drainer_.join();
  if (sleeper_.joinable()) sleeper_.join();
  for (Move& move : moves_) move.thread.join();
}

// CLOCK_BOOTTIME: goes on over a suspend and over a restart of the node, and no one can set it.
double Node::seconds() const {
  timespec time{};
  ::clock_gettime(CLOCK_BOOTTIME, &time);
  return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) * 1e-9;
}

void Node::tick() {
  auto due = std::chrono::steady_clock::now();
  for (;;) {
    const double now = seconds();
    try {
      look_after_guests(now);
      balance(now);
      judge(now);
      look_after_sleep(now);
    } catch (const std::exception& error) {
      fmt::print(stderr, "godwit: node: {}\n", error.what());
    }
    due = std::max(due + config_.interval, std::chrono::steady_clock::now());
    std::unique_lock lock(mutex_);
    changed_.wait_until(lock, due, [this] { return ending_; });
    if (ending_) return;
    for (auto move = moves_.begin(); move != moves_.end();) {
      if (!move->done) {
        ++move;
        continue;
      }
      move->thread.join();
      move = moves_.erase(move);
    }
  }
}

/// A host that was closed for maintenance is still closed after a reboot.
void Node::set_closed(bool closed) const {
  const std::string file = config_.directory + "/closed";
  std::error_code ignored;
  if (closed) {
    std::ofstream(file) << "godwit undrain opens this host again\n";
  } else {
    std::filesystem::remove(file, ignored);
  }
}

json Node::set_mode(std::optional<Mode> mode, std::optional<balancer::Goal> goal) {
  const std::lock_guard lock(mutex_);
  if (mode) mode_ = *mode;
  if (goal && *goal != policy_.goal) {
    policy_ = config_.policies.at(static_cast<std::size_t>(*goal));
    wanted_ = 0;  // what the other goal wanted
    empty_since_ = -1;
  }
  return {{"mode", mode_name(mode_)}, {"goal", goal_name(policy_.goal)}};
}

void Node::undrain() {
  const std::lock_guard lock(mutex_);
  if (state_ == State::kAsleep) get_up("opened by a person");
  state_ = State::kOpen;
  set_closed(false);
  empty_since_ = -1;
  drain_trouble_.clear();
}

}  // namespace godwit::node
