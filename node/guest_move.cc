// Guest's moves: a thread of its own for each, and what becomes of the guest when it ends.
#include <fmt/format.h>

#include "node/guest.h"

namespace godwit::node {

using nlohmann::json;

void Guest::migrate(const MoveRequest& request, MoveDone done) {
  MoveRequest whole = request;
  if (!whole.tls) whole.tls = tls_;
  begin_move(
      "move", [&] { return std::make_unique<Move>(*machine_, whole); }, std::move(done));
}

void Guest::upgrade(const std::string& program, MoveDone done) {
  begin_move(
      "upgrade", [&] { return std::make_unique<Move>(*machine_, program, successor_words_); },
      std::move(done));
}

void Guest::begin_move(const char* what, const std::function<std::unique_ptr<Move>()>& make,
                       MoveDone done) {
  const std::lock_guard lock(mutex_);
  require({State::kRunning}, what);
  if (outcome_) {
    throw Conflict(fmt::format("cannot {} {}: it is about to end", what, config_.name));
  }
  if (mover_.joinable()) mover_.join();  // an earlier one, over since before the state changed
  move_ = make();
  moving_to_ = move_->to();
  state_ = State::kMigrating;
  consoles_.hurry(true);
  mover_ = std::thread([this, done = std::move(done)] { run_move(done, false); });
}

void Guest::resume_migration(MoveDone done) {
  const std::lock_guard lock(mutex_);
  if (!move_ || busy() || !move_->can_resume()) {
    throw Conflict(fmt::format("no move of {} has lost its link in post-copy", config_.name));
  }
  if (mover_.joinable()) mover_.join();
  state_ = State::kMigrating;
  mover_ = std::thread([this, done = std::move(done)] { run_move(done, true); });
}

void Guest::settle_move(Move::End end) {
  if (end != Move::End::kPaused && end != Move::End::kInDoubt) move_.reset();
  switch (end) {
    case Move::End::kMoved:
      state_ = State::kOver;  // whatever else was wanted: it never runs here again
      outcome_ = Outcome{Outcome::Kind::kMoved, 0, config_.name + " moved to " + moving_to_};
      break;
    case Move::End::kHere:
      // Paused if it could not go on; the report says why.
      state_ = machine_->running() ? State::kRunning : State::kPaused;
      stranded_ = state_ == State::kPaused;
      break;
    case Move::End::kInDoubt:
      state_ = State::kInDoubt;
      break;
    case Move::End::kPaused:
      state_ = State::kPostCopyPaused;
      break;
  }
}

void Guest::run_move(const MoveDone& done, bool again) {
  const Move::End end = again ? move_->resume() : move_->run();
  json report;
  bool over = false;
  {
    const std::lock_guard lock(mutex_);
    consoles_.hurry(false);
    report = move_->report();
    settle_move(end);
    report["guest_state"] = state_name();
    last_report_ = report;
    over = outcome_.has_value();
  }
  done(report);  // before the process may end
  if (over) machine_->request_stop();
}

json Guest::migration() {
  const std::lock_guard lock(mutex_);
  return {{"active", move_ ? move_->progress() : json()}, {"last_report", last_report_}};
}

void Guest::cancel_migration() {
  const std::lock_guard lock(mutex_);
  if (state_ == State::kPostCopyPaused || (move_ && move_->in_post_copy())) {
    throw Conflict(
        fmt::format("too late to cancel: {} runs at {}, and memory that it lacks there is here",
                    config_.name, moving_to_));
  }
  if (!busy()) throw Conflict(fmt::format("{} is not being moved", config_.name));
  give_up();
}

void Guest::resolve(bool here) {
  const std::lock_guard lock(mutex_);
  if (state_ != State::kInDoubt) throw Conflict(fmt::format("{} is not in doubt", config_.name));
  if (!here) {
    return end_locked(
        {Outcome::Kind::kMoved, 0, config_.name + " runs at " + moving_to_ + ", as resolved"});
  }
  Move::take_back(*machine_);
  move_.reset();
  state_ = State::kRunning;
}

}  // namespace godwit::node
