#include "node/move.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <optional>

#include "migration/dry_run.h"
#include "migration/report.h"
#include "migration/source.h"
#include "node/host_port.h"
#include "node/succession.h"

namespace godwit::node {

namespace {

constexpr double kUpgradeTimeoutMs = 20'000;  // for a program to start and to build a machine

migration::SourceOptions source_options(const MoveRequest& request,
                                        const migration::PinnedMemory* pinned) {
  const std::string why = destination_complaint(request.to);
  if (!why.empty()) throw BadRequest("to: " + why);
  migration::SourceOptions options;
  options.to = request.to;
  if (request.transport == "rdma") options.transport = migration::Transport::kRdma;
  if (request.transport == "tcp") options.transport = migration::Transport::kTcp;
  if (request.mode == "postcopy") options.mode = migration::Mode::kPostCopy;
  if (request.mode == "hybrid") options.mode = migration::Mode::kHybrid;
  if (request.verify && request.mode != "precopy") {
    throw BadRequest(
        "verify compares all memory before the guest runs at the destination: only with the mode "
        "precopy");
  }
  options.downtime_limit_ms = static_cast<double>(request.downtime_limit_ms);
  options.max_bandwidth = request.max_bandwidth;
  options.timeout_ms = static_cast<double>(request.timeout_ms);
  options.verify = request.verify;
  options.max_throttle = request.throttle_percent;
  options.streams = request.streams;
  options.compress = request.compress;
  options.rdma_ports = request.rdma_ports;
  options.pinned = pinned;
  options.tls = request.tls;
  options.tls_name = request.tls_name.empty() ? parse_host_port(request.to).host : request.tls_name;
  if (!request.tls && !request.tls_name.empty()) {
    throw BadRequest("tls: a name, and neither it nor the guest's process has certificates");
  }
  return options;
}

migration::SourceOptions upgrade_options(const std::string& to) {
  migration::SourceOptions options;
  options.to = to;
  options.timeout_ms = kUpgradeTimeoutMs;
  return options;
}

int shareable_ram(vmm::Machine& machine) {
  if (machine.memory().private_copy()) {
    throw Conflict(
        "a guest restored from a snapshot has memory of this process only: move it to a godwit "
        "receive on this host instead");
  }
  return machine.memory().memfd();
}

}  // namespace

struct Move::Impl {
  Impl(vmm::Machine& machine, const MoveRequest& request, const migration::PinnedMemory* pinned)
      : to(request.to),
        dry_run(request.dry_run),
        source(machine, source_options(request, pinned)) {}
  Impl(vmm::Machine& machine, const std::string& program, const std::vector<std::string>& words)
      : successor(std::in_place, program, words, shareable_ram(machine)),
        to(fmt::format("process {}", successor->pid())),
        source(machine, upgrade_options(to), successor->take_connection()) {}

  std::optional<Successor> successor;
  std::string to;
  const bool dry_run = false;
  migration::Source source;
  nlohmann::json dry_report;
};

Move::Move(vmm::Machine& machine, const MoveRequest& request, const migration::PinnedMemory* pinned)
    : impl_(std::make_unique<Impl>(machine, request, pinned)) {}

Move::Move(vmm::Machine& machine, const std::string& program, const std::vector<std::string>& words)
    : impl_(std::make_unique<Impl>(machine, program, words)) {}

Move::~Move() = default;

namespace {

Move::End end_of(migration::Source::End end) {
  switch (end) {
    case migration::Source::End::kMoved:
      return Move::End::kMoved;
    case migration::Source::End::kHere:
      return Move::End::kHere;
    case migration::Source::End::kPaused:
      return Move::End::kPaused;
    case migration::Source::End::kInDoubt:
      break;
  }
  return Move::End::kInDoubt;
}

}  // namespace

Move::End Move::run() {
  if (impl_->dry_run) {
    impl_->dry_report = to_json(impl_->source.dry_run());
    return End::kHere;
  }
  const migration::Source::End end = impl_->source.run();
  if (impl_->successor && end != migration::Source::End::kHere) impl_->successor->let_go();
  return end_of(end);
}

Move::End Move::resume() { return end_of(impl_->source.resume()); }

bool Move::can_resume() const { return impl_->source.can_resume(); }

bool Move::can_ask() const { return impl_->source.can_ask(); }

namespace {

Move::Word word_of(migration::Source::Word word) {
  switch (word) {
    case migration::Source::Word::kRuns:
      return Move::Word::kRuns;
    case migration::Source::Word::kNever:
      return Move::Word::kNever;
    case migration::Source::Word::kNone:
      break;
  }
  return Move::Word::kNone;
}

}  // namespace

Move::Word Move::ask() { return word_of(impl_->source.ask()); }

Move::Word Move::ask_disks() { return word_of(impl_->source.ask_disks()); }

void Move::stop_asking() { impl_->source.stop_asking(); }

void Move::settle(bool there, const std::string& why) { impl_->source.settle(there, why); }

bool Move::dry_run() const { return impl_->dry_run; }

bool Move::in_post_copy() const { return impl_->source.progress().phase == "postcopy"; }

const std::string& Move::to() const { return impl_->to; }

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
  nlohmann::json report = impl_->dry_run ? impl_->dry_report : to_json(impl_->source.report());
  report["to"] = impl_->to;
  return report;
}

}  // namespace godwit::node
