// Guest's moves: a thread of its own for each, and what becomes of the guest when it ends.
#include <fmt/format.h>

#include <utility>

#include "node/guest.h"

namespace godwit::node {

using nlohmann::json;

void Guest::migrate(const MoveRequest& request, MoveDone done) {
  MoveRequest whole = request;
  if (!whole.tls) whole.tls = tls_;
  begin_move(
      request.dry_run ? "try to move" : "move",
      [&] { return std::make_unique<Move>(*machine_, whole, pinned_.get()); }, std::move(done));
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
  machine_->set_urgency(sys::Urgency::kUsual);  // it may have arrived only now
  moving_to_ = move_->to();
  state_ = State::kMigrating;
  consoles_.hurry(true);
  waiting_.push_back({std::move(done), Clock::time_point::max()});
  mover_ = std::thread([this, move = move_] { run_move(move, false); });
}

void Guest::resume_migration(std::chrono::milliseconds wait, MoveDone done) {
  const std::lock_guard lock(mutex_);
  if (state_ == State::kInDoubt && move_ && move_->can_ask()) {
    waiting_.push_back({std::move(done), Clock::now() + wait});
    ask_now_ = true;
    news_.notify_all();
    return;
  }
  if (!move_ || busy() || !move_->can_resume()) {
    throw Conflict(fmt::format("no move of {} has lost its link", config_.name));
  }
  if (mover_.joinable()) mover_.join();
  state_ = State::kMigrating;
  waiting_.push_back({std::move(done), Clock::time_point::max()});
  mover_ = std::thread([this, move = move_] { run_move(move, true); });
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

void Guest::run_move(const std::shared_ptr<Move>& move, bool again) {
  Move::End end = again ? move->resume() : move->run();
  std::unique_lock lock(mutex_);
  consoles_.hurry(false);
  if (end == Move::End::kInDoubt && move->can_ask()) end = settle_doubt(lock, move);
  if (move_ != move) return;  // resolve() has told everybody
  if (!resolved(move)) settle_move(end);
  const json report = report_of(*move);
  if (!move->dry_run()) last_report_ = report;
  const bool over = outcome_.has_value();
  const auto waiting = std::exchange(waiting_, {});
  lock.unlock();
  for (const Waiting& who : waiting) who.done(report);  // before the process may end
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
  if (state_ == State::kInDoubt) {
    throw Conflict(fmt::format("too late to cancel: {} may run at {}; godwit resolve decides",
                               config_.name, moving_to_));
  }
  if (!busy()) throw Conflict(fmt::format("{} is not being moved", config_.name));
  give_up();
}

}  // namespace godwit::node
