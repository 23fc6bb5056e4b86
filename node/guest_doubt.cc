// A guest in doubt: stopped here after a commit that nobody answered, perhaps running at the
// destination. Who finds out, the mover's thread or a person, decides once.
#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "node/guest.h"

namespace godwit::node {

using nlohmann::json;
using std::chrono::milliseconds;

namespace {
constexpr milliseconds kFirstPause{100};  // between two attempts; each is twice the one before
constexpr milliseconds kLongestPause{10'000};
constexpr milliseconds kGrace{2000};  // before a move is said to have ended in doubt
}  // namespace

// How the move has left the guest after all; kInDoubt: somebody else has decided.
Move::End Guest::settle_doubt(std::unique_lock<std::mutex>& lock,
                              const std::shared_ptr<Move>& move) {
  for (;;) {
    state_ = State::kInDoubt;
    for (Waiting& who : waiting_) who.until = std::min(who.until, Clock::now() + kGrace);
    last_report_ = report_of(*move);
    const Move::Word word = await_word(lock, move);
    if (word == Move::Word::kNone) return Move::End::kInDoubt;
    if (word == Move::Word::kNever) {
      take_back(*move,
                "the connection was lost at commit, and the destination never began to run it");
      return Move::End::kHere;
    }
    if (!move->can_resume()) {
      move->settle(true, "the answer to the commit was lost; it runs there nevertheless");
      return Move::End::kMoved;
    }
    state_ = State::kMigrating;
    lock.unlock();
    const Move::End end = move->resume();
    lock.lock();
    if (end != Move::End::kInDoubt) return end;
  }
}

// Without the lock as long as it may take.
Move::Word Guest::await_word(std::unique_lock<std::mutex>& lock,
                             const std::shared_ptr<Move>& move) {
  for (milliseconds pause = kFirstPause;; pause = std::min(2 * pause, kLongestPause)) {
    lock.unlock();
    Move::Word word = move->ask();
    lock.lock();
    if (resolved(move)) return Move::Word::kNone;
    if (word == Move::Word::kNone) word = move->ask_disks();
    if (word != Move::Word::kNone) return word;
    answer_impatient(lock, *move);
    auto next = Clock::now() + pause;
    for (const Waiting& who : waiting_) next = std::min(next, who.until);
    news_.wait_until(lock, next, [&] { return resolved(move) || ask_now_; });
    ask_now_ = false;
    if (resolved(move)) return Move::Word::kNone;
  }
}

/// Somebody has decided otherwise meanwhile.
bool Guest::resolved(const std::shared_ptr<Move>& move) const {
  return move_ != move || (state_ == State::kInDoubt && outcome_) || state_ == State::kOver;
}

json Guest::report_of(const Move& move) const {
  json report = move.report();
  report["guest_state"] = state_name();
  tell_own_end(report);
  return report;
}

void Guest::answer_impatient(std::unique_lock<std::mutex>& lock, const Move& move) {
  const auto due = std::partition(waiting_.begin(), waiting_.end(),
                                  [](const Waiting& who) { return who.until > Clock::now(); });
  const std::vector<Waiting> impatient(std::make_move_iterator(due),
                                       std::make_move_iterator(waiting_.end()));
  waiting_.erase(due, waiting_.end());
  const json report = report_of(move);
  lock.unlock();
  for (const Waiting& who : impatient) who.done(report);
  lock.lock();
}

void Guest::take_back(Move& move, const std::string& why) {
  try {
    Move::take_back(*machine_);
    move.settle(false, why);
  } catch (const std::exception& error) {
    move.settle(false, fmt::format("{}; and the guest cannot go on here: {}: it stays paused", why,
                                   error.what()));
  }
}

void Guest::resolve(bool here) {
  std::unique_lock lock(mutex_);
  if (state_ != State::kInDoubt) throw Conflict(fmt::format("{} is not in doubt", config_.name));
  if (here) Move::take_back(*machine_);
  move_->settle(!here, "as resolved by a person");
  move_->stop_asking();
  if (here) {
    state_ = State::kRunning;
  } else {
    end_locked(
        {Outcome::Kind::kMoved, 0, config_.name + " runs at " + moving_to_ + ", as resolved"});
  }
  last_report_ = report_of(*move_);
  const json report = last_report_;
  const auto waiting = std::exchange(waiting_, {});
  move_.reset();
  if (mover_.joinable()) retired_.push_back(std::move(mover_));  // it may still wait for an answer
  news_.notify_all();
  lock.unlock();
  for (const Waiting& who : waiting) who.done(report);
}

}  // namespace godwit::node
