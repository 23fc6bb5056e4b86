// Guest's snapshots: taken by a thread of their own, as its moves are.
#include <fmt/format.h>

#include "node/guest.h"

namespace godwit::node {

using nlohmann::json;

void Guest::snapshot(const SnapshotRequest& request, MoveDone done) {
  const std::lock_guard lock(mutex_);
  require({State::kRunning, State::kPaused}, "take a snapshot of");
  if (stranded_) {
    throw Conflict(
        fmt::format("cannot take a snapshot of {}: a move left it stopped; godwit "
                    "resume lets it run",
                    config_.name));
  }
  if (outcome_) {
    throw Conflict(fmt::format("cannot take a snapshot of {}: it is about to end", config_.name));
  }
  if (mover_.joinable()) mover_.join();  // of an earlier move or snapshot, over by now
  snapshot_ = std::make_unique<SnapshotJob>(*machine_, request);
  snapshot_request_ = request;
  state_ = State::kSnapshotting;
  consoles_.hurry(true);
  mover_ = std::thread([this, done = std::move(done)] { run_snapshot(done); });
}

void Guest::run_snapshot(const MoveDone& done) {
  const bool was_running = machine_->running();
  const bool complete = snapshot_->run();
  json report;
  bool over = false;
  {
    const std::lock_guard lock(mutex_);
    consoles_.hurry(false);
    report = snapshot_->report();
    snapshot_.reset();
    state_ = machine_->running() ? State::kRunning : State::kPaused;
    if (complete && snapshot_request_.stop) {
      state_ = State::kOver;
      if (!outcome_) {
        outcome_ = Outcome{Outcome::Kind::kStopped, 0,
                           "stopped; its snapshot is " + snapshot_request_.directory};
      }
    } else {
      stranded_ = was_running && state_ == State::kPaused;  // its disks may not be locked
    }
    report["guest_state"] = state_name();
    tell_own_end(report);
    over = outcome_.has_value();
  }
  done(report);  // before the process may end
  if (over) machine_->request_stop();
}

void Guest::give_up() {
  if (snapshot_) return snapshot_->cancel();
  move_->cancel();
}

}  // namespace godwit::node
