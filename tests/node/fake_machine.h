// Stand-ins for vmm::Machine and node::Move at link time, so that Guest's life can be tested
// without KVM and without a network: what a test wants of them goes through these globals.
#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "node/move.h"
#include "node/snapshot_job.h"
#include "vmm/machine.h"

namespace godwit::node {

struct FakeWorld {
  std::mutex mutex;
  std::condition_variable changed;
  std::optional<vmm::End> end;  // what the guest does next
  std::string take_back_error;  // take_back() throws that
  std::atomic<bool> panicked = false;
  std::atomic<bool> strands = false;  // a move that fails leaves the machine paused
  std::string boot_error;             // boot() throws that
  std::optional<Move::End> move_end;  // how the move that is going on ends
  std::optional<bool> snapshot_end;   // whether the snapshot that is going on succeeds
  std::atomic<bool> move_cancelled = false;
  std::atomic<bool> stops_it = false;      // a move leaves the machine paused
  std::atomic<bool> may_ask = false;       // of a move in doubt
  std::deque<Move::Word> words;            // that ask() gets, then none
  std::atomic<std::uint64_t> balloon = 0;  // target
  std::atomic<int> machines = 0;           // alive now
  std::function<void()> while_booting;     // called by boot()

  /// What was done to machines, in order.
  std::vector<std::string> calls() {
    const std::lock_guard lock(mutex);
    return calls_;
  }
  void note(const std::string& what) {
    const std::lock_guard lock(mutex);
    calls_.push_back(what);
    changed.notify_all();
  }
  bool wait_for(const std::string& what) {
    std::unique_lock lock(mutex);
    return changed.wait_for(lock, std::chrono::seconds(5), [&] {
      return std::find(calls_.begin(), calls_.end(), what) != calls_.end();
    });
  }
  void guest_does(vmm::End what) {
    const std::lock_guard lock(mutex);
    end = std::move(what);
    changed.notify_all();
  }
  Move::Word next_word() {
    const std::lock_guard lock(mutex);
    if (words.empty()) return Move::Word::kNone;
    const Move::Word word = words.front();
    words.pop_front();
    return word;
  }
  void will_hear(Move::Word word) {
    const std::lock_guard lock(mutex);
    words.push_back(word);
  }
  void forget_move() {
    const std::lock_guard lock(mutex);
    move_end.reset();
  }
  void snapshot_ends(bool well) {
    wait_for("snapshot");
    const std::lock_guard lock(mutex);
    snapshot_end = well;
    changed.notify_all();
  }
  void move_ends(Move::End how) {
    const std::lock_guard lock(mutex);
    move_end = how;
    changed.notify_all();
  }

 private:
  std::vector<std::string> calls_;
};

FakeWorld& world();
void reset_world();

}  // namespace godwit::node
