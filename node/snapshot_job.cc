#include "node/snapshot_job.h"

#include <nlohmann/json.hpp>

#include "migration/snapshot.h"

namespace godwit::node {

struct SnapshotJob::Impl {
  std::string directory;
  migration::SnapshotTaker taker;
};

SnapshotJob::SnapshotJob(vmm::Machine& machine, const SnapshotRequest& request)
    : impl_(new Impl{request.directory, {machine, {request.directory, request.stop}}}) {}

SnapshotJob::~SnapshotJob() = default;

bool SnapshotJob::run() { return impl_->taker.run(); }

void SnapshotJob::cancel() { impl_->taker.cancel(); }

nlohmann::json SnapshotJob::report() const {
  nlohmann::json report = to_json(impl_->taker.report());
  report["directory"] = impl_->directory;
  return report;
}

}  // namespace godwit::node
