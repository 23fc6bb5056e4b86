// Source's rounds: sends RAM while the guest runs, again and again what it has written meanwhile,
// until that is little enough.
#include <algorithm>
#include <chrono>
#include <utility>
#include <vector>

#include "migration/page_scan.h"
#include "migration/rdma_channel.h"
#include "migration/source.h"

namespace godwit::migration {

using memory::kPageSize;
using memory::PageBitmap;
using memory::PageRange;

namespace {
constexpr std::uint64_t kChunk =
    (16ull << 20) / kPageSize;  // pages re-protected, then sent, at a time
}  // namespace

void Source::start_rounds() {
  machine_.dirty_log().start();
  const memory::GuestMemory& memory = machine_.memory();
  if (rdma_ != nullptr) rdma_->prepare(memory.populated({0, memory.pages()}));
  const std::lock_guard lock(mutex_);
  progress_.phase = "rounds";
  progress_.total_bytes = memory.data_bytes();
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

void Source::copy_ram_in_time() {
  try {
    copy_ram();
  } catch (const TimedOut&) {
    const bool own = options_.timeout_ms > 0 && elapsed_ms() >= options_.timeout_ms;
    if (!own || options_.mode == Mode::kPostCopy) throw;
    throw ChannelError(why_not_in_time());
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

// The time-out has come in the middle of a round.
std::string Source::why_not_in_time() {
  RoundFacts facts = wishes();
  {
    const std::lock_guard lock(mutex_);
    facts.dirty_bytes = progress_.remaining_bytes;
  }
  facts.elapsed_ms = elapsed_ms();
  const double sending_ms = facts.elapsed_ms - transport_began_ms_;
  facts.bytes_per_ms = rate(sending_ms);
  facts.unheld_per_ms = rate(sending_ms - held_ms_);
  facts.rounds = std::span(report_.rounds).subspan(rounds_before_);
  return out_of_time(facts);
}

/// Of the rounds so far, if they have taken so long: bytes of pages a millisecond.
double Source::rate(double ms) const {
  return ms > 0 ? static_cast<double>(report_.ram_bytes - sent_before_) / ms : 0;
}

/// Of the bytes of pages sent so far; with nothing on its way.
double Source::travelled_share() const {
  if (report_.ram_bytes == 0) return 1;
  return std::min(1.0, static_cast<double>(wire_bytes()) / static_cast<double>(report_.ram_bytes));
}

// What to do at the end of a round, by all that is known of the rounds so far.
Verdict Source::judge(std::uint64_t dirty_pages) {
  Round& last = report_.rounds.back();
  last.dirty_pages = dirty_pages;
  RoundFacts facts = wishes();
  facts.dirty_bytes = dirty_pages * kPageSize;
  facts.bytes_per_ms = rate(sent_ms_);
  facts.unheld_per_ms = rate(sent_ms_ - held_ms_);
  facts.wire_share = travelled_share();
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
      report_.pages.hole += chunk.count - memory::pages_in(ranges);
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
  wire_share_ = travelled_share();
  const double due = sent + static_cast<double>(bytes) * wire_share_;
  struct Held {
    double& ms;
    Clock::time_point since = Clock::now();
    ~Held() { ms += ms_since(since); }
  };
  const Held held{held_ms_};
  for (double ahead = ahead_ms(due); ahead > 0; ahead = ahead_ms(due)) {
    stop_if_cancelled();
    if (options_.timeout_ms > 0 && elapsed_ms() > options_.timeout_ms) throw TimedOut("timed out");
    wire_->wait_for(wire_->interrupt_fd(), static_cast<int>(std::clamp(ahead, 1.0, 100.0)));
  }
}

/// Since Begin, by all transports.
std::uint64_t Source::wire_bytes() const { return wire_before_ + channel_->bytes_sent(); }

}  // namespace godwit::migration
