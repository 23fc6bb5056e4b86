#include "migration/source.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "migration/digest.h"
#include "migration/rdma_channel.h"
#include "vmm/sys/background.h"

namespace godwit::migration {

using memory::kPageSize;
using std::chrono::milliseconds;

namespace {

constexpr int kReadyTimeoutMs = 10000;    // it restores the state while the guest stands still
constexpr int kRunningTimeoutMs = 10000;  // it lets the guest run
constexpr milliseconds kPausedPatience{800};

/// CPU time of this process less its vCPUs: what the move costs. Milliseconds.
double own_cpu_ms(const vmm::Machine& machine) {
  rusage usage{};
  ::getrusage(RUSAGE_SELF, &usage);
  const auto ms = [](const timeval& t) {
    return static_cast<double>(t.tv_sec) * 1e3 + static_cast<double>(t.tv_usec) / 1e3;
  };
  return ms(usage.ru_utime) + ms(usage.ru_stime) - static_cast<double>(machine.vcpu_cpu_ns()) / 1e6;
}

class Cancelled : public std::runtime_error {
 public:
  Cancelled() : std::runtime_error("cancelled") {}
};

}  // namespace

Source::Source(vmm::Machine& machine, SourceOptions options)
    : Source(machine, std::move(options), sys::UniqueFd()) {}

Source::Source(vmm::Machine& machine, SourceOptions options, sys::UniqueFd successor)
    : machine_(machine),
      options_(std::move(options)),
      successor_(std::move(successor)),
      shared_ram_(successor_),
      pending_(machine.memory().pages()),
      sent_(machine.memory().pages()),
      throttle_(machine) {
  progress_.phase = "connecting";
  progress_.downtime_limit_ms = options_.downtime_limit_ms;
}

Source::End Source::run() {
  const double cpu_before = own_cpu_ms(machine_);
  const memory::GuestMemory::Hold hold(machine_.memory());  // outlives channel_'s memory regions
  std::exception_ptr error;
  try {
    connect();
    // Else the guest waits for its CPU behind the threads, the host's as well, that copy its
    // memory.
    machine_.set_urgency(sys::Urgency::kHigh);
    if (!shared_ram_ && options_.mode != Mode::kPostCopy) start_rounds();
    for (bool there = false; !there;) {
      try {
        if (!shared_ram_) copy_ram_in_time();
        switch_over();
        there = true;
      } catch (const TransportLost& lost) {
        fall_back(lost.what());
      }
    }
    if (server_) serve_rest();
  } catch (...) {
    error = std::current_exception();
  }
  if (channel_) report_.wire_bytes = wire_bytes();
  report_.throttle_percent = throttle_.most();
  report_.throttle_ms = throttle_.ms();
  const End end = finish(error);
  report_.cpu_source_ms = std::max(0.0, own_cpu_ms(machine_) - cpu_before);
  return end;
}

Source::End Source::finish(const std::exception_ptr& error) {
  report_.status = "completed";
  report_.reason.clear();
  try {
    if (error) std::rethrow_exception(error);
  } catch (const std::exception& why) {
    report_.reason = why.what();
    if (!runs_there_ && dynamic_cast<const PeerGaveUp*>(&why) != nullptr) {
      // Even after Commit: it says so only if it has not let the guest run.
      const std::lock_guard lock(mutex_);
      committed_ = false;
    }
    const bool cancelled = cancelled_ && !committed_;
    report_.status = runs_there_  ? "postcopy-paused"
                     : committed_ ? "in-doubt"
                     : cancelled  ? "cancelled"
                                  : "failed";
    if (cancelled) report_.reason = "cancelled";
    machine_.set_urgency(sys::Urgency::kUsual);
    if (!committed_) roll_back();
  }
  report_.total_ms = elapsed_ms();
  // What is left of the guest here is only to be given back, which is no reason to hold up others.
  if (!error) sys::run_in_background();
  const std::lock_guard lock(mutex_);
  rdma_ = nullptr;
  channel_.reset();
  wire_.reset();
  if (!error) return End::kMoved;
  progress_.phase = report_.status;
  if (committed_ && !runs_there_) {
    progress_.doubt.since = Clock::now();
    progress_.doubt.last_error = report_.reason;
  }
  return runs_there_ ? End::kPaused : committed_ ? End::kInDoubt : End::kHere;
}

void Source::switch_over() {
  set_phase("switching over");
  stop_if_cancelled();
  const auto pause_start = Clock::now();
  wire_->set_patience(kPausedPatience);
  paused_ = true;
  throttle_.set(0);
  machine_.pause();
  disks_unlocked_ = true;
  machine_.unlock_disks();
  if (disks_tell_) stamps_ = machine_.disk_stamps();
  report_.pause_ms = ms_since(pause_start);

  // State first: on old kernels saving it dirties pages that no running vCPU would report.
  const auto state_start = Clock::now();
  const std::vector<std::byte> state = machine_.save();
  const double save_ms = ms_since(state_start);

  if (post_copy_) {
    leave_rest(state);
  } else {
    send_last_round(state);
  }
  report_.state_bytes = state.size();

  const auto ready_start = Clock::now();
  expect(MessageKind::kReady, kReadyTimeoutMs);
  report_.state_ms = save_ms + ms_since(ready_start);

  const auto commit_start = Clock::now();
  commit();
  const Running running = decode_running(expect(MessageKind::kRunning, kRunningTimeoutMs).payload);
  runs_there_ = true;
  report_.resume_ms = ms_since(commit_start);
  report_.downtime_ms = ms_since(pause_start);
  report_.cpu_destination_ms = running.cpu_ms;
  report_.cpu_destination_rounds_ms = running.cpu_rounds_ms;
  if (!server_ && !shared_ram_) confirm();
}

// The destination need not wait for this end to come and ask.
void Source::confirm() noexcept {
  try {
    wire_->send({.kind = MessageKind::kArrived});
  } catch (const std::exception&) {
    // Then it waits.
  }
}

void Source::send_last_round(std::span<const std::byte> state) {
  const auto start = Clock::now();
  const std::uint64_t before = report_.pages.sent;
  if (!shared_ram_) {
    machine_.dirty_log().collect(pending_);
    send_chunk(pending_.ranges());
    if (options_.verify) {
      const auto verify_start = Clock::now();
      const auto digests = digest_regions(machine_.memory());
      channel_->send(MessageKind::kVerify, std::as_bytes(std::span(digests)));
      report_.verify_ms = ms_since(verify_start);
    }
  }
  channel_->send(MessageKind::kState, state);
  report_.last_round_ms = ms_since(start) - report_.verify_ms;
  const std::uint64_t pages = report_.pages.sent - before;
  if (!shared_ram_) report_.rounds.push_back({pages, pages * kPageSize, report_.last_round_ms, 0});
}

// The point of no return. A peer that is seen to be gone, or a Commit of which not even a whole
// header was handed to the kernel, cannot have started the guest: those still roll back.
void Source::commit() {
  wire_->require_peer();
  {
    const std::lock_guard lock(mutex_);  // cancel() comes before this, or too late
    stop_if_cancelled();
    committed_ = true;
    progress_.phase = "committed";
  }
  const std::uint64_t before = wire_->bytes_sent();
  try {
    if (server_) {
      wire_->send({.kind = MessageKind::kCommit});  // no page has to come before it
    } else {
      channel_->send(MessageKind::kCommit, {});
    }
  } catch (const std::exception&) {
    const std::lock_guard lock(mutex_);
    committed_ = wire_->bytes_sent() - before >= sizeof(FrameHeader);
    throw;
  }
  wire_->set_deadline(std::nullopt);
}

// Not a Refuse: that is thrown.
Message Source::receive(int timeout_ms) {
  Message message;
  if (server_) {
    message = server_->serve(*wire_, false, timeout_ms);
  } else if (channel_) {
    message = channel_->receive(timeout_ms);
  } else {
    const FrameHeader header = wire_->receive_header(timeout_ms);
    message = {header.kind, wire_->receive_payload(header)};
  }
  if (message.kind == MessageKind::kRefuse) {
    throw PeerGaveUp("the destination refused: " + decode_reason(message.payload));
  }
  return message;
}

Message Source::expect(MessageKind kind, int timeout_ms) {
  Message message = receive(timeout_ms);
  if (message.kind != kind) {
    throw ChannelError(
        fmt::format("the peer sent {}, {} was due", kind_name(message.kind), kind_name(kind)));
  }
  return message;
}

// The guest goes on here as if nothing had been; the destination learns of it, or sees the
// connection end.
void Source::roll_back() noexcept {
  throttle_.set(0);
  try {
    if (disks_unlocked_) machine_.lock_disks();
    if (paused_) machine_.resume();
  } catch (const std::exception& error) {
    report_.reason +=
        fmt::format("; and the guest cannot go on here: {}: it stays paused", error.what());
  }
  try {
    machine_.dirty_log().stop();
    if (wire_) wire_->send_json(MessageKind::kAbort, encode_reason(report_.reason));
  } catch (const std::exception&) {
    // The peer is gone: it knows already.
  }
}

void Source::cancel() {
  const std::lock_guard lock(mutex_);
  if (committed_) return;
  cancelled_ = true;
  given_up_.signal();
  if (wire_) wire_->interrupt();
}

void Source::stop_if_cancelled() const {
  if (cancelled_) throw Cancelled();
}

void Source::set_phase(const char* phase) {
  const std::lock_guard lock(mutex_);
  progress_.phase = phase;
}

Progress Source::progress() const {
  const std::lock_guard lock(mutex_);
  Progress now = progress_;
  now.elapsed_ms = elapsed_ms();
  return now;
}

double Source::ms_since(Clock::time_point start) {
  return std::chrono::duration<double, std::milli>(Clock::now() - start).count();
}

double Source::elapsed_ms() const { return ms_since(began_); }

}  // namespace godwit::migration
