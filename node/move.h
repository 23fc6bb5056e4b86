// One outgoing move of a guest, as Guest sees it: the migration engine behind JSON.
#pragma once

#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "node/guest_control.h"
#include "vmm/machine.h"

namespace godwit::migration {
class PinnedMemory;
}

namespace godwit::node {

class Move {
 public:
  /// How a move left the guest.
  enum class End { kMoved, kHere, kInDoubt, kPaused };

  /// `machine` and its `pinned` memory (or null) must outlive it. Throws BadRequest when `request`
  /// cannot be meant.
  Move(vmm::Machine& machine, const MoveRequest& request, const migration::PinnedMemory* pinned);
  /// To a new process of this host, which runs `program` with these words. Throws
  /// std::runtime_error when it cannot be started, Conflict for a machine that cannot go this way.
  Move(vmm::Machine& machine, const std::string& program, const std::vector<std::string>& words);
  ~Move();
  Move(const Move&) = delete;
  Move& operator=(const Move&) = delete;

  /// Blocks until the move has ended, one way or another; never throws. The machine belongs to the
  /// calling thread until then. With kHere, which a dry run always ends with, it is as it was
  /// before.
  End run();
  /// After run() or this has ended with kPaused, or ask() with kRuns: goes on with what is left of
  /// it. As run().
  End resume();
  /// Whether resume() has anything to go on with.
  bool can_resume() const;

  // After run() has ended with kInDoubt.
  enum class Word { kNone, kRuns, kNever };
  bool can_ask() const;
  /// Asks the destination what became of the guest. Takes some seconds at most.
  Word ask();
  /// The same of the guest's disks. The machine must belong to the calling thread; with kNever it
  /// has its disks, and the guest nowhere else to run.
  Word ask_disks();
  /// Makes ask() return. From any thread.
  void stop_asking();
  /// The guest is there, or here, as `why` says.
  void settle(bool there, const std::string& why);

  bool dry_run() const;
  /// The guest runs at the destination, and memory follows it. Any thread.
  bool in_post_copy() const;

  /// Where the guest goes, in words.
  const std::string& to() const;

  /// Asks for the move to be given up; too late once it is committed. From any thread.
  void cancel();
  /// From any thread, while run() goes on.
  nlohmann::json progress() const;
  /// After run().
  nlohmann::json report() const;

  /// Lets a machine run here again that a move has left stopped, in doubt or unable to go on: locks
  /// its disks first, and throws, leaving it stopped, when somebody else has them.
  static void take_back(vmm::Machine& machine);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace godwit::node
