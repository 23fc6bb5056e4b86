#include "migration/source.h"

#include <fmt/format.h>

#include <algorithm>
#include <thread>
#include <utility>

#include "migration/digest.h"
#include "migration/page_scan.h"
#include "migration/rdma_channel.h"
#include "vmm/sys/background.h"

namespace godwit::migration {

using memory::kPageSize;
using memory::PageBitmap;
using memory::PageRange;
using std::chrono::milliseconds;

namespace {

constexpr std::uint64_t kChunk =
    (16ull << 20) / kPageSize;            // pages re-protected, then sent, at a time
constexpr int kReadyTimeoutMs = 10000;    // it restores the state while the guest stands still
constexpr int kRunningTimeoutMs = 10000;  // it lets the guest run
constexpr milliseconds kPausedPatience{800};

double ms_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start)
      .count();
}

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
    machine_.prefer_vcpus(true);
    if (!shared_ram_ && options_.mode != Mode::kPostCopy) start_rounds();
    for (bool there = false; !there;) {
      try {
        if (!shared_ram_) copy_ram();
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
    machine_.prefer_vcpus(false);
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

void Source::start_rounds() {
  machine_.dirty_log().start();
  const auto populated = machine_.memory().populated({0, machine_.memory().pages()});
  channel_->prepare(populated);
  const std::lock_guard lock(mutex_);
  progress_.phase = "rounds";
  for (const PageRange& range : populated) progress_.total_bytes += range.bytes();
}

void Source::copy_ram() {
  if (options_.mode == Mode::kPostCopy) {
    post_copy_ = true;
    // Registered while the guest runs; what it touches after this is registered while it stands.
    const PageRange all{0, machine_.memory().pages()};
    if (rdma_ != nullptr) rdma_->offer(machine_.memory().populated(all));
    return;
  }
  for (;;) {
    machine_.dirty_log().collect(pending_);  // at first all of RAM
    if (!report_.rounds.empty()) {
      const Verdict verdict = judge(pending_.count());
      if (verdict.action == Verdict::Action::kGiveUp) throw ChannelError(verdict.why);
      post_copy_ = verdict.action == Verdict::Action::kPostCopy;
      if (post_copy_) return watch_hot_pages();
      if (verdict.action == Verdict::Action::kSwitchOver) return;
      throttle_.set(verdict.throttle);
    }
    const auto start = Clock::now();
    const std::uint64_t pages = send_pass(pending_);
    channel_->flush();
    pending_.clear();
    const double ms = ms_since(start);
    sent_ms_ += ms;
    report_.rounds.push_back({pages, pages * kPageSize, ms, 0});
  }
}

/// What a decision goes by that does not change from round to round.
RoundFacts Source::wishes() const {
  return {.fixed_ms = kAssumedFixedMs,
          .downtime_limit_ms = options_.downtime_limit_ms,
          .timeout_ms = options_.timeout_ms,
          .data_bytes = static_cast<double>(machine_.memory().populated_bytes()),
          .max_throttle = options_.max_throttle,
          .may_post_copy = options_.mode == Mode::kHybrid};
}

/// Of the rounds so far, if they have taken so long: bytes of pages a millisecond.
double Source::rate(double ms) const {
  return ms > 0 ? static_cast<double>(report_.ram_bytes - sent_before_) / ms : 0;
}

// What to do at the end of a round, by all that is known of the rounds so far.
Verdict Source::judge(std::uint64_t dirty_pages) {
  Round& last = report_.rounds.back();
  last.dirty_pages = dirty_pages;
  RoundFacts facts = wishes();
  facts.dirty_bytes = dirty_pages * kPageSize;
  facts.bytes_per_ms = rate(sent_ms_);
  facts.unheld_per_ms = rate(sent_ms_ - held_ms_);
  facts.last_round_ms = last.ms;
  facts.elapsed_ms = elapsed_ms();
  facts.rounds = report_.rounds;
  facts.curve = std::move(curve_);
  facts.throttled = throttle_.percent();
  add_round(facts);
  Verdict verdict = decide(facts);
  if (report_.rounds.size() == 1) {
    report_.predicted = predict(facts, facts.curve).end.value_or(Prediction{});
  }
  curve_ = std::move(facts.curve);
  const std::lock_guard lock(mutex_);
  progress_.dirty_mbps =
      last.ms > 0 ? static_cast<double>(dirty_pages * kPageSize) * 8 / 1000 / last.ms : 0;
  progress_.predicted_downtime_ms = verdict.predicted_downtime_ms;
  progress_.throttle_percent = verdict.throttle;
  return verdict;
}

// Sends the pending pages, chunk by chunk; re-protects a chunk *before* reading it, so that what is
// written meanwhile is dirty for the next round. Returns the pages sent.
std::uint64_t Source::send_pass(const PageBitmap& pending) {
  memory::GuestMemory& memory = machine_.memory();
  const bool first_pass = report_.rounds.empty();
  const std::uint64_t before = report_.pages.sent;
  PageRange seen{};
  if (first_pass) report_.pages.hole = 0;
  {
    const std::lock_guard lock(mutex_);
    progress_.round = static_cast<unsigned>(report_.rounds.size() + 1);
    progress_.remaining_bytes = first_pass ? progress_.total_bytes : pending.count() * kPageSize;
  }
  for (std::uint64_t at = 0; at < memory.pages(); at += kChunk) {
    stop_if_cancelled();
    const PageRange chunk{at, std::min(kChunk, memory.pages() - at)};
    std::vector<PageRange> ranges = pending.ranges(chunk);
    if (ranges.empty()) continue;
    machine_.dirty_log().clear(chunk);
    if (first_pass) {
      ranges = memory.populated(chunk, seen);
      std::uint64_t data = 0;
      for (const PageRange& range : ranges) data += range.count;
      report_.pages.hole += chunk.count - data;
    }
    send_chunk(ranges);
  }
  return report_.pages.sent - before;
}

void Source::send_chunk(std::span<const PageRange> ranges) {
  const ScannedPages scanned = scan_pages(machine_.memory(), ranges);
  std::uint64_t data_pages = 0;
  for (const PageRange& range : scanned.data) {
    data_pages += range.count;
    const auto again = sent_.ranges(range);
    for (const PageRange& old : again) report_.pages.resent += old.count;
    sent_.set(range);
  }
  // A zero page needs telling only where the destination has something else.
  std::vector<PageRange> cleared;
  std::uint64_t zero_pages = 0;
  for (const PageRange& range : scanned.zero) {
    zero_pages += range.count;
    for (const PageRange& old : sent_.ranges(range)) cleared.push_back(old);
  }
  pace(data_pages * kPageSize);
  if (!scanned.data.empty()) channel_->write(scanned.data);
  if (!cleared.empty()) channel_->write_zero(cleared);
  report_.pages.sent += data_pages;
  report_.pages.zero += zero_pages;
  report_.ram_bytes += data_pages * kPageSize;
  const std::lock_guard lock(mutex_);
  const std::uint64_t done = (data_pages + zero_pages) * kPageSize;
  progress_.remaining_bytes -= std::min(progress_.remaining_bytes, done);
  const double ms = ms_since(began_) - report_.setup_ms;
  if (ms > 0) progress_.throughput_mbps = static_cast<double>(report_.ram_bytes) * 8 / 1000 / ms;
}

// Keeps the average over the rounds, of what travels, at --max-bandwidth; the last round, with the
// guest paused, is not held back.
void Source::pace(std::uint64_t bytes) {
  if (options_.max_bandwidth == 0 || paused_) return;
  if (options_.compress && report_.ram_bytes == 0) return;  // who knows what they come to
  const auto ahead_ms = [&](double travelled) {
    return travelled * 8000 / static_cast<double>(options_.max_bandwidth) -
           (elapsed_ms() - report_.setup_ms);
  };
  if (ahead_ms(static_cast<double>(report_.ram_bytes + bytes) * wire_share_) <= 0) return;
  channel_->flush();  // what is on its way travels as fast as it can: that is no waiting
  const auto sent = static_cast<double>(wire_bytes());
  if (report_.ram_bytes > 0)
    wire_share_ = std::min(1.0, sent / static_cast<double>(report_.ram_bytes));
  const double due = sent + static_cast<double>(bytes) * wire_share_;
  const auto start = Clock::now();
  for (double ahead = ahead_ms(due); ahead > 0; ahead = ahead_ms(due)) {
    stop_if_cancelled();
    if (options_.timeout_ms > 0 && elapsed_ms() > options_.timeout_ms)
      throw ChannelError("timed out");
    wire_->wait_for(wire_->interrupt_fd(), static_cast<int>(std::clamp(ahead, 1.0, 100.0)));
  }
  held_ms_ += ms_since(start);
}

/// Since Begin, by all transports.
std::uint64_t Source::wire_bytes() const { return wire_before_ + channel_->bytes_sent(); }

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

double Source::elapsed_ms() const { return ms_since(began_); }

}  // namespace godwit::migration
