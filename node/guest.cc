#include "node/guest.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <utility>

namespace godwit::node {

using nlohmann::json;

namespace {

double ms_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start)
      .count();
}

}  // namespace

Guest::Guest(const vmm::MachineConfig& config, Consoles& consoles)
    : consoles_(consoles),
      config_(config),
      machine_(std::make_unique<vmm::Machine>(config, consoles.sink())) {}

Guest::Guest(const vmm::MachineConfig& config, Consoles& consoles, Arriving /*arriving*/)
    : consoles_(consoles), config_(config), state_(State::kArriving) {}

Guest::~Guest() {
  if (mover_.joinable()) mover_.join();
  for (std::thread& thread : retired_) thread.join();
}

void Guest::start() { boot(); }

void Guest::arrived(std::unique_ptr<vmm::Machine> machine,
                    std::unique_ptr<migration::PostCopy> post_copy) {
  // It runs already: what it has to go without is no reason to end it.
  std::unique_ptr<migration::PinnedMemory> pinned;
  if (pins_memory_ && !post_copy) {
    try {
      pinned = std::make_unique<migration::PinnedMemory>(machine->memory());
    } catch (const migration::RdmaError& error) {
      fmt::print(stderr, "godwit: --rdma-pin: {}: {} goes on without\n", error.what(),
                 config_.name);
    }
  }
  const std::lock_guard lock(mutex_);
  pinned_ = std::move(pinned);
  machine_ = std::move(machine);
  post_copy_ = std::move(post_copy);
  state_ = State::kRunning;
  if (outcome_) machine_->request_stop();
}

void Guest::refused() {
  const std::lock_guard lock(mutex_);
  state_ = State::kRefused;
}

Outcome Guest::wait() {
  for (;;) {
    const vmm::End end = machine_->wait();
    give_up_post_copy();
    {
      std::unique_lock lock(mutex_);
      while (busy()) {  // the guest's own end has overtaken its move
        own_end_ = end;
        give_up();
        std::thread mover = std::move(mover_);
        lock.unlock();
        mover.join();
        lock.lock();
      }
      state_ = State::kOver;
      if (!outcome_ && end.kind == vmm::End::Kind::kPowerOff) {
        outcome_ = Outcome{Outcome::Kind::kPowerOff, 0, ""};
      }
      if (!outcome_ && end.kind == vmm::End::Kind::kFailed) {
        outcome_ = Outcome{Outcome::Kind::kFailed, 0, end.why};
      }
      if (!outcome_ && end.kind == vmm::End::Kind::kStopped) outcome_ = Outcome{};
      if (outcome_) {
        outcome_->panicked = machine_->panicked();
        return *outcome_;
      }
      state_ = State::kBooting;
      own_end_.reset();
      stranded_ = false;  // the next machine is none that a move has stopped
      earlier_usage_ += machine_->usage();
      dirty_rate_.reset();
    }
    try {
      reboot();
    } catch (const std::exception& error) {
      return {Outcome::Kind::kFailed, 0, fmt::format("cannot reboot: {}", error.what())};
    }
  }
}

/// Nobody cancelled what the guest's own end has cut short.
void Guest::tell_own_end(json& report) const {
  if (!own_end_ || report["status"] != "cancelled") return;
  switch (own_end_->kind) {
    case vmm::End::Kind::kStopped:
      return;
    case vmm::End::Kind::kReset:
      report["reason"] = "the guest reboots";
      break;
    case vmm::End::Kind::kPowerOff:
      report["reason"] = "the guest has powered itself off";
      break;
    case vmm::End::Kind::kFailed:
      report["reason"] = own_end_->why;
      break;
  }
  report["status"] = "failed";
  report["guest_state"] = own_end_->kind == vmm::End::Kind::kReset ? "booting" : "over";
}

// Of a guest that is over: its devices may still wait for pages, so it stands still first.
void Guest::give_up_post_copy() {
  {
    const std::lock_guard lock(mutex_);
    if (!post_copy_) return;
  }
  machine_->pause();
  const std::lock_guard lock(mutex_);
  post_copy_.reset();
}

void Guest::reboot() {
  pinned_.reset();
  machine_.reset();  // its memory and its disks are needed by the next one
  machine_ = std::make_unique<vmm::Machine>(config_, consoles_.sink());
  boot();
}

void Guest::boot() {
  // While kBooting nobody but this thread uses the machine: loading a kernel takes too long for the
  // lock.
  machine_->lock_disks();
  machine_->boot();
  if (pins_memory_) {
    try {
      pinned_ = std::make_unique<migration::PinnedMemory>(machine_->memory());
    } catch (const migration::RdmaError& error) {
      throw std::runtime_error(fmt::format("--rdma-pin: {}", error.what()));
    }
  }
  const std::lock_guard lock(mutex_);
  if (outcome_) return machine_->request_stop();
  machine_->resume();
  state_ = State::kRunning;
}

void Guest::end(Outcome outcome) {
  const std::lock_guard lock(mutex_);
  end_locked(std::move(outcome));
}

void Guest::end_locked(Outcome outcome) {
  if (state_ == State::kOver) return;
  if (!outcome_) outcome_ = std::move(outcome);
  if (busy()) return give_up();  // its thread stops the machine
  if (state_ == State::kInDoubt) {
    move_->stop_asking();
    news_.notify_all();
  }
  if (post_copy_ && post_copy_->status().lost && abandon_) {
    abandon_(fmt::format("{} ends with its process: {}", config_.name, post_copy_->complaint()));
  }
  if (usable()) machine_->request_stop();  // or boot() or arrived() will see outcome_
}

std::size_t Guest::type(std::span<const std::byte> bytes) {
  const std::lock_guard lock(mutex_);
  // Nobody will take them any more, or only the machine of before the reboot would have.
  if (!usable() || state_ == State::kOver) return bytes.size();
  return consoles_.hvc_is_typed_to() ? machine_->hvc_input(bytes) : machine_->console_input(bytes);
}

std::uint64_t Guest::first_instruction_ns() {
  const std::lock_guard lock(mutex_);
  return usable() ? machine_->first_instruction_ns() : 0;
}

const char* Guest::state_name() const {
  switch (state_) {
    case State::kArriving:
      return "arriving";
    case State::kBooting:
      return "booting";
    case State::kRunning:
      if (!post_copy_ || post_copy_->status().done) return "running";
      return post_copy_->status().lost ? "postcopy-paused" : "postcopy";
    case State::kPaused:
      return "paused";
    case State::kMigrating:
      return "migrating";
    case State::kSnapshotting:
      return "snapshotting";
    case State::kInDoubt:
      return "in-doubt";
    case State::kRefused:
      return "refused";
    case State::kPostCopyPaused:
      return "postcopy-paused";
    case State::kOver:
      break;
  }
  return "over";
}

void Guest::require(std::initializer_list<State> allowed, const char* what) const {
  const std::string missing = post_copy_ ? post_copy_->complaint() : "";
  if (!missing.empty())
    throw Conflict(fmt::format("cannot {} {}: {}", what, config_.name, missing));
  if (std::find(allowed.begin(), allowed.end(), state_) != allowed.end()) return;
  const char* hint = "";
  if (state_ == State::kMigrating) hint = "; godwit cancel ends the move";
  if (state_ == State::kSnapshotting) hint = "; godwit cancel ends the snapshot";
  if (state_ == State::kPaused) hint = "; godwit resume lets it run";
  if (state_ == State::kInDoubt) hint = "; godwit resolve decides";
  if (state_ == State::kPostCopyPaused) hint = "; godwit migrate --resume goes on with its move";
  throw Conflict(fmt::format("cannot {} {}: it is {}{}", what, config_.name, state_name(), hint));
}

json Guest::status() {
  const std::lock_guard lock(mutex_);
  json disks = json::array();
  const auto errors = usable() ? machine_->disk_errors() : std::vector<vmm::DiskErrors>();
  for (std::size_t i = 0; i < config_.disks.size(); ++i) {
    const vmm::DiskConfig& disk = config_.disks[i];
    const vmm::DiskErrors error = i < errors.size() ? errors[i] : vmm::DiskErrors{};
    disks.push_back({{"path", disk.path},
                     {"read_only", disk.read_only},
                     {"cache", disk.direct ? "none" : "writeback"},
                     {"serial", disk.serial},
                     {"errors", error.count},
                     {"last_error", error.last == 0 ? json() : json(std::strerror(error.last))}});
  }
  json nets = json::array();
  for (const vmm::NetConfig& net : config_.nets) {
    nets.push_back({{"tap", net.tap}, {"mac", net.mac}, {"mtu", net.mtu}, {"bridge", net.bridge}});
  }
  return {{"name", config_.name},
          {"state", state_name()},
          {"pid", ::getpid()},
          {"version", GODWIT_VERSION},
          {"memory_bytes", config_.memory_bytes},
          {"cpus", config_.cpus},
          {"cpu", config_.cpu},
          {"huge_pages", config_.huge_pages},
          {"kernel", config_.kernel},
          {"initrd", config_.initrd},
          {"command_line", config_.command_line},
          {"disks", std::move(disks)},
          {"nets", std::move(nets)},
          {"panicked", usable() && machine_->panicked()},
          {"rng", config_.rng},
          {"balloon", balloon_status()},
          {"vsock", config_.vsock.cid == 0
                        ? json()
                        : json{{"cid", config_.vsock.cid}, {"path", config_.vsock.path}}},
          {"hvc", config_.console},
          {"postcopy", memory_status()},
          {"uptime_ms", ms_since(since_)},
          {"cpu_ms", static_cast<double>(usage().cpu_run_ns) / 1e6},
          {"migration", move_ ? move_->progress() : json()},
          {"last_report", last_report_}};
}

json Guest::memory_status() const {
  if (!post_copy_) return {};
  const migration::PostCopy::Status now = post_copy_->status();
  if (now.done) return {};
  return {{"lost", now.lost},
          {"reason", now.reason},
          {"missing_bytes", now.missing_bytes},
          {"faults", now.faults}};
}

void Guest::pause() {
  const std::lock_guard lock(mutex_);
  if (state_ == State::kPaused) return;
  require({State::kRunning}, "pause");
  consoles_.hurry(true);
  machine_->pause();
  consoles_.hurry(false);
  state_ = State::kPaused;
}

void Guest::settle_in() {
  const std::lock_guard lock(mutex_);
  // Of a guest that is on the move again, its move decides.
  if (usable() && machine_ && state_ != State::kMigrating) {
    machine_->set_urgency(sys::Urgency::kUsual);
  }
}

void Guest::resume() {
  const std::lock_guard lock(mutex_);
  if (state_ == State::kRunning) return;
  require({State::kPaused}, "resume");
  if (stranded_) {
    Move::take_back(*machine_);
  } else {
    machine_->resume();
  }
  stranded_ = false;
  state_ = State::kRunning;
}

void Guest::balloon(std::uint64_t bytes) {
  const std::lock_guard lock(mutex_);
  require({State::kRunning, State::kPaused, State::kMigrating, State::kSnapshotting},
          "ask memory of");
  if (!config_.balloon) throw Conflict(config_.name + " has no balloon: run it with --balloon");
  if (bytes > config_.memory_bytes) {
    throw BadRequest(fmt::format("{} has {} bytes of memory, it cannot give {}", config_.name,
                                 config_.memory_bytes, bytes));
  }
  machine_->set_balloon(bytes);
}

json Guest::balloon_status() const {
  if (!config_.balloon || !usable()) return {};
  const auto state = machine_->balloon();
  if (!state) return {};
  json statistics = json::object();
  for (const auto& [name, value] : state->statistics) statistics[name] = value;
  return {{"target_bytes", state->target},
          {"actual_bytes", state->actual},
          {"reported_bytes", state->reported},
          {"statistics", std::move(statistics)}};
}

void Guest::stop(bool force) {
  const std::lock_guard lock(mutex_);
  if (force) return end_locked({Outcome::Kind::kStopped, 0, "stopped by godwit stop --force"});
  if (state_ != State::kRunning) require({State::kRunning}, "press the power button of");
  machine_->press_power_button();
}

}  // namespace godwit::node
