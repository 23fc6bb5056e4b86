// Taking a snapshot of a machine: RAM goes into a sparse file in rounds while the guest runs, each
// round only what was written since (the dirty log of a move); the guest is paused for the last and
// for its state, and runs on before anything is flushed to disk. run() in a thread of its own;
// cancel() from any other.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "migration/report.h"
#include "migration/snapshot_file.h"
#include "vmm/machine.h"

namespace godwit::migration {

struct SnapshotOptions {
  std::string directory;  // absolute; made by this, so it must not be there yet
  bool stop = false;      // leave the machine paused and its disks unlocked: it is not to run again
};

struct SnapshotReport {
  std::string status;  // "completed", "failed", "cancelled"
  std::string reason;  // why not completed; one line
  double total_ms = 0;
  double pause_ms = 0;  // the guest stood still; of a paused guest nothing
  std::vector<Round> rounds;
  std::uint64_t memory_bytes = 0;  // of RAM that the file holds
  std::uint64_t state_bytes = 0;
};
nlohmann::json to_json(const SnapshotReport& report);

/// The machine of a snapshot: paused, with its disks locked, RAM still in the file. `directory` is
/// for messages; a disk whose path `moved_disks` has (by index, empty: as it was) is taken to be a
/// copy of the time of the snapshot, every other one must not have been written to since. Throws
/// SnapshotError and what Machine throws.
std::unique_ptr<vmm::Machine> restore_machine(OpenSnapshot open, vmm::ConsoleSink console,
                                              const std::vector<std::string>& moved_disks = {});

class SnapshotTaker {
 public:
  /// `machine` is running or paused, outlives this, and belongs to run() while that lasts.
  SnapshotTaker(vmm::Machine& machine, SnapshotOptions options);
  ~SnapshotTaker();
  SnapshotTaker(const SnapshotTaker&) = delete;
  SnapshotTaker& operator=(const SnapshotTaker&) = delete;

  /// Blocks until the snapshot is on disk under its name; true then. False: nothing is left of it,
  /// and the machine is as it was before, or paused with its disks unlocked if it could not go on
  /// (report() says so). Never throws.
  bool run();

  /// Gives it up if it is not complete yet. Any thread, any time.
  void cancel() { cancelled_ = true; }
  /// After run().
  const SnapshotReport& report() const { return report_; }

 private:
  using Clock = std::chrono::steady_clock;

  void make_files();
  void copy_while_running();
  bool another_round(std::uint64_t dirty_bytes) const;
  void write_pass(const memory::PageBitmap& pending);
  void write_ranges(const std::vector<memory::PageRange>& ranges);
  void write_data(memory::PageRange range);
  void write_zero(memory::PageRange range);
  void finish_paused(bool was_running);
  void complete();
  void roll_back(bool was_running) noexcept;
  void stop_if_cancelled() const;

  vmm::Machine& machine_;
  const SnapshotOptions options_;
  const Clock::time_point began_ = Clock::now();
  SnapshotReport report_;
  Snapshot snapshot_;
  std::string temporary_;  // the directory while it is incomplete; empty when there is none
  sys::UniqueFd memory_;
  memory::PageBitmap written_;  // pages that are data in the file
  std::uint64_t round_pages_ = 0;
  bool unlocked_ = false;
  bool logging_ = false;
  std::atomic<bool> cancelled_ = false;
};

}  // namespace godwit::migration
