// One guest in this process: owns its Machine, serialises what the API, the console, signals and a
// move want of it, reboots it when it resets, and knows when and why it is over.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <initializer_list>
#include <memory>
#include <mutex>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "migration/pinned_memory.h"
#include "migration/postcopy_destination.h"
#include "migration/tls/tls.h"
#include "node/console.h"
#include "node/guest_control.h"
#include "node/move.h"
#include "node/snapshot_job.h"
#include "vmm/machine.h"
#include "vmm/memory/dirty_rate.h"

namespace godwit::node {

/// Why a guest is over in this process.
struct Outcome {
  enum class Kind { kPowerOff, kStopped, kSignal, kMoved, kFailed } kind = Kind::kStopped;
  int signal = 0;         // for kSignal
  std::string text;       // one line for the user; may be empty
  bool panicked = false;  // it had panicked before it was over
};

class Guest : public GuestControl {
 public:
  /// Builds the machine; start() boots it. `consoles` must outlive the guest. Throws what Machine
  /// throws.
  Guest(const vmm::MachineConfig& config, Consoles& consoles);
  struct Arriving {};
  /// A guest on its way from another host; arrived() gives it its machine.
  Guest(const vmm::MachineConfig& config, Consoles& consoles, Arriving arriving);
  /// Only after wait() has returned, if start() ever did.
  ~Guest() override;

  /// From the beginning to the end all of its RAM is registered for RDMA. Before start() or
  /// arrived().
  void pin_memory() { pins_memory_ = true; }

  /// Locks the disks, boots, lets it run. Throws what Machine throws.
  void start();
  /// `machine` runs already: instead of start(). `post_copy`: what is to come of its memory, or
  /// null.
  void arrived(std::unique_ptr<vmm::Machine> machine,
               std::unique_ptr<migration::PostCopy> post_copy);
  /// Instead of arrived(): it will not come, and this process stays for a while to say so.
  void refused();
  /// Some time after arrived(): its vCPUs no longer go before others. From any thread.
  void settle_in();
  /// Called to end this process at once, when the guest is to end and waits for memory that does
  /// not come: its threads are stuck. Before the guest arrives.
  void set_abandon(std::function<void(const std::string& why)> abandon) {
    abandon_ = std::move(abandon);
  }
  /// Blocks until the guest is over; a reset boots it again. Called by one thread, once.
  Outcome wait();

  /// The options of `godwit receive` with which a successor of this process serves the guest as
  /// this one does. Before it can be asked to upgrade.
  void set_successor_words(std::vector<std::string> words) { successor_words_ = std::move(words); }

  /// By which it moves where nothing else is asked for; without, in plain. Before it can be asked
  /// to.
  void set_tls(std::optional<tls::Files> files) { tls_ = std::move(files); }

  /// Ends the guest as soon as that can be done cleanly: a move is cancelled first. From any
  /// thread.
  void end(Outcome outcome);
  /// Bytes typed at the console; returns how many were taken. From any thread.
  std::size_t type(std::span<const std::byte> bytes);
  /// CLOCK_MONOTONIC nanoseconds of the first guest instruction, 0 before. From any thread.
  std::uint64_t first_instruction_ns();

  nlohmann::json status() override;
  nlohmann::json load() override;
  void pause() override;
  void resume() override;
  void balloon(std::uint64_t bytes) override;
  void stop(bool force) override;
  void migrate(const MoveRequest& request, MoveDone done) override;
  void resume_migration(std::chrono::milliseconds wait, MoveDone done) override;
  void upgrade(const std::string& program, MoveDone done) override;
  void snapshot(const SnapshotRequest& request, MoveDone done) override;
  nlohmann::json migration() override;
  void cancel_migration() override;
  void resolve(bool here) override;

 private:
  enum class State {
    kArriving,
    kBooting,
    kRunning,
    kPaused,
    kMigrating,
    kSnapshotting,
    kInDoubt,
    kRefused,         // a move to here that came to nothing
    kPostCopyPaused,  // runs elsewhere, and memory that it lacks is here
    kOver
  };

  using Clock = std::chrono::steady_clock;
  struct Waiting {
    MoveDone done;
    Clock::time_point until;  // then the report says that it is still in doubt
  };

  const char* state_name() const;
  nlohmann::json balloon_status() const;
  nlohmann::json memory_status() const;
  /// Throws Conflict unless the guest is in one of these states.
  void require(std::initializer_list<State> allowed, const char* what) const;
  void end_locked(Outcome outcome);
  void begin_move(const char* what, const std::function<std::unique_ptr<Move>()>& make,
                  MoveDone done);
  void run_move(const std::shared_ptr<Move>& move, bool again);
  void settle_move(Move::End end);
  Move::End settle_doubt(std::unique_lock<std::mutex>& lock, const std::shared_ptr<Move>& move);
  Move::Word await_word(std::unique_lock<std::mutex>& lock, const std::shared_ptr<Move>& move);
  bool resolved(const std::shared_ptr<Move>& move) const;
  nlohmann::json report_of(const Move& move) const;
  void tell_own_end(nlohmann::json& report) const;
  void answer_impatient(std::unique_lock<std::mutex>& lock, const Move& move);
  void take_back(Move& move, const std::string& why);
  void give_up_post_copy();
  void run_snapshot(const MoveDone& done);
  /// The machine belongs to mover_.
  bool busy() const { return state_ == State::kMigrating || state_ == State::kSnapshotting; }
  void give_up();
  /// The machine is there and other threads may use it.
  bool usable() const {
    return state_ != State::kArriving && state_ != State::kBooting && state_ != State::kRefused;
  }
  /// Since this process began; never steps back.
  vmm::Usage usage() const;
  void boot();
  void reboot();

  Consoles& consoles_;
  const vmm::MachineConfig config_;
  const std::chrono::steady_clock::time_point since_ = std::chrono::steady_clock::now();

  std::mutex mutex_;  // guards all below; held for milliseconds, never for as long as a move
  State state_ = State::kBooting;
  std::unique_ptr<vmm::Machine>
      machine_;               // until it runs: for the thread in start() or wait() alone
  vmm::Usage earlier_usage_;  // of the machines before the last reboot
  /// What is to come of machine_'s memory; done() or null as a rule. It goes before the machine.
  std::unique_ptr<migration::PostCopy> post_copy_;
  bool pins_memory_ = false;
  std::unique_ptr<migration::PinnedMemory> pinned_;  // machine_'s; goes before it
  std::function<void(const std::string&)> abandon_;
  memory::DirtyRate dirty_rate_;     // of machine_'s memory
  std::optional<Outcome> outcome_;   // how it is to end, once that is decided
  std::optional<vmm::End> own_end_;  // that has overtaken the move or snapshot

  std::vector<std::string> successor_words_;
  std::optional<tls::Files> tls_;
  std::string moving_to_;
  std::shared_ptr<Move>
      move_;  // while kMigrating, and as long as it is not settled; the mover's, too
  std::vector<Waiting> waiting_;  // for the end of the move
  bool ask_now_ = false;          // in doubt: somebody waits for the next attempt
  std::condition_variable news_;  // of a doubt
  SnapshotRequest snapshot_request_;
  std::unique_ptr<SnapshotJob> snapshot_;  // while kSnapshotting
  bool stranded_ = false;                  // kPaused because a failed move could not let it go on
  std::thread mover_;                      // joined by the next move, or the end
  std::vector<std::thread> retired_;       // movers that nobody waits for any more, but the end
  nlohmann::json last_report_;             // null before the first move
};

}  // namespace godwit::node
