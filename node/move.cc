#include "node/move.h"

#include <nlohmann/json.hpp>

#include "migration/report.h"
#include "migration/source.h"
#include "node/host_port.h"

namespace godwit::node {

namespace {

migration::SourceOptions source_options(const MoveRequest& request) {
  const std::string why = destination_complaint(request.to);
  if (!why.empty()) throw BadRequest("to: " + why);
  migration::SourceOptions options;
  options.to = request.to;
  if (request.transport == "rdma") options.transport = migration::Transport::kRdma;
  if (request.transport == "tcp") options.transport = migration::Transport::kTcp;
  options.downtime_limit_ms = static_cast<double>(request.downtime_limit_ms);
  options.max_bandwidth = request.max_bandwidth;
  options.timeout_ms = static_cast<double>(request.timeout_ms);
  options.max_throttle = request.throttle_percent;
  return options;
}

}  // namespace

struct Move::Impl {
  std::string to;
  migration::Source source;
};

Move::Move(vmm::Machine& machine, const MoveRequest& request)
    : impl_(new Impl{request.to, {machine, source_options(request)}}) {}

Move::~Move() = default;

Move::End Move::run() {
  switch (impl_->source.run()) {
    case migration::Source::End::kMoved:
      return End::kMoved;
    case migration::Source::End::kHere:
      return End::kHere;
    case migration::Source::End::kInDoubt:
      break;
  }
  return End::kInDoubt;
}

void Move::cancel() { impl_->source.cancel(); }

void Move::take_back(vmm::Machine& machine) {
  try {
    machine.lock_disks();
  } catch (...) {
    machine.unlock_disks();  // not half of them: whoever runs the guest may want the others
    throw;
  }
  machine.dirty_log().stop();
  machine.resume();
}

nlohmann::json Move::progress() const {
  nlohmann::json progress = to_json(impl_->source.progress());
  progress["to"] = impl_->to;
  return progress;
}

nlohmann::json Move::report() const {
  nlohmann::json report = to_json(impl_->source.report());
  report["to"] = impl_->to;
  return report;
}

}  // namespace godwit::node
