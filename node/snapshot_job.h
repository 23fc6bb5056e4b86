// A snapshot being taken of a guest, as Guest sees it: the engine behind JSON.
#pragma once

#include <memory>
#include <nlohmann/json_fwd.hpp>

#include "node/guest_control.h"
#include "vmm/machine.h"

namespace godwit::node {

class SnapshotJob {
 public:
  /// `machine` must outlive it.
  SnapshotJob(vmm::Machine& machine, const SnapshotRequest& request);
  ~SnapshotJob();
  SnapshotJob(const SnapshotJob&) = delete;
  SnapshotJob& operator=(const SnapshotJob&) = delete;

  /// Blocks until the snapshot is complete (true) or nothing is left of it; never throws. The
  /// machine belongs to the calling thread until then.
  bool run();
  /// Asks for it to be given up. From any thread.
  void cancel();
  /// After run().
  nlohmann::json report() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace godwit::node
