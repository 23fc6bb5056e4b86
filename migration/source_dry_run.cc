// Source's dry run: all that a move does before its first round, and instead of that a look at how
// fast the link and the guest are.
#include <algorithm>
#include <chrono>
#include <span>
#include <vector>

#include "migration/digest.h"
#include "migration/page_scan.h"
#include "migration/source.h"

namespace godwit::migration {

using memory::kPageSize;
using memory::PageBitmap;
using memory::PageRange;
using std::chrono::milliseconds;

namespace {

// Pages of one place of RAM: what RDMA registers together, and one stream carries.
constexpr std::uint64_t kPiece = (2ull << 20) / kPageSize;
constexpr std::size_t kMostPieces = 128;
constexpr double kBurstMs = 150;  // a burst that took as long tells the link's rate
constexpr milliseconds kFirstLook{1};
constexpr int kLooks = 10;  // each after twice the time of the one before: 512 ms
constexpr int kRehearseTimeoutMs = 20'000;
constexpr double kUnrehearsedMs = 1;  // to stop the vCPUs, and to let them run again

/// Whole blocks of kPiece, as far as they are populated; about kMostPieces, spread evenly.
std::vector<PageRange> sample_of(const std::vector<PageRange>& populated) {
  const std::uint64_t step = std::max(pages_in(populated) / kMostPieces, kPiece);
  std::vector<PageRange> pieces;
  std::uint64_t before = 0;  // pages, of the ranges up to here
  std::uint64_t due = 0;
  for (const PageRange& range : populated) {
    for (; due < before + range.count; due += step) {
      const std::uint64_t block = (range.first + (due - before)) / kPiece * kPiece;
      const std::uint64_t first = std::max(block, range.first);
      pieces.push_back({first, std::min(block + kPiece, range.end()) - first});
    }
    before += range.count;
  }
  return pieces;
}

/// Off again, whatever happens.
class LoggedWrites {
 public:
  explicit LoggedWrites(memory::DirtyLog& log) : log_(log) { log_.start(); }
  ~LoggedWrites() { log_.stop(); }
  LoggedWrites(const LoggedWrites&) = delete;
  LoggedWrites& operator=(const LoggedWrites&) = delete;

 private:
  memory::DirtyLog& log_;
};

}  // namespace

DryRun Source::dry_run() {
  const memory::GuestMemory::Hold hold(machine_.memory());  // outlives channel_'s memory regions
  dry_ = true;
  DryRun run;
  run.status = "failed";
  run.downtime_limit_ms = options_.downtime_limit_ms;
  try {
    connect();
    run.setup_ms = report_.setup_ms;
    set_phase("measuring");
    for (bool measured = false; !measured;) {
      try {
        measure_link(run);
        measured = true;
      } catch (const TransportLost& lost) {
        fall_back(lost.what());
      }
    }
    measure_guest(run);
    rehearse_switch_over(run);
    foretell(run);
  } catch (const std::exception& why) {
    if (cancelled_) run.status = "cancelled";
    run.reason = report_.reason = cancelled_ ? "cancelled" : why.what();
    roll_back();
  }
  run.transport = report_.transport;
  run.transport_reason = report_.transport_reason;
  run.tls = report_.tls;
  run.streams = report_.streams;
  run.rdma_ports = report_.rdma_ports.size();
  run.total_ms = elapsed_ms();
  const std::lock_guard lock(mutex_);
  rdma_ = nullptr;
  channel_.reset();
  wire_.reset();
  return run;
}

// Pages of the guest go the way that they would go in a move, to where they would land, in bursts
// that double, until one takes long enough to tell.
void Source::measure_link(DryRun& run) {
  const std::vector<PageRange> populated =
      machine_.memory().populated({0, machine_.memory().pages()});
  run.populated_bytes = pages_in(populated) * kPageSize;
  const std::vector<PageRange> sample = sample_of(populated);
  std::uint64_t tried = 0;
  std::uint64_t data = 0;
  double last_ms = 0;
  std::span<const PageRange> left(sample);
  for (std::size_t burst = 1; !left.empty() && last_ms < kBurstMs; burst *= 2) {
    stop_if_cancelled();
    const auto pieces = left.first(std::min(burst, left.size()));
    left = left.subspan(pieces.size());
    const auto start = Clock::now();
    const std::uint64_t wire_before = wire_bytes();
    const ScannedPages scanned = scan_pages(machine_.memory(), pieces);
    if (!scanned.data.empty()) channel_->write(scanned.data);
    channel_->flush();
    last_ms = ms_since(start);
    tried += pages_in(pieces);
    data += pages_in(scanned.data);
    if (burst <= 2) run.link_bytes = run.wire_bytes = 0, run.link_ms = 0;  // the first was cold
    run.link_bytes += pages_in(scanned.data) * kPageSize;
    run.wire_bytes += wire_bytes() - wire_before;
    run.link_ms += last_ms;
  }
  if (tried > 0) run.data_share = static_cast<double>(data) / static_cast<double>(tried);
}

// The dirty log counts distinct pages after a time, twice that, and so on.
void Source::measure_guest(DryRun& run) {
  memory::DirtyLog& log = machine_.dirty_log();
  const PageRange all{0, machine_.memory().pages()};
  PageBitmap dirty(all.count);
  const auto began = Clock::now();
  {
    const LoggedWrites logged(log);
    for (int i = 0; i < 2; ++i) {  // at first all of it; then what was written while that was done
      log.collect(dirty);
      log.clear(all);
    }
    dirty.clear();
    const auto start = Clock::now();
    for (int look = 0; look < kLooks; ++look) {
      wait_until(start + kFirstLook * (1 << look));
      log.collect(dirty);
      run.curve.add(ms_since(start), static_cast<double>(dirty.count() * kPageSize));
    }
  }
  run.log_ms = ms_since(began);
}

void Source::wait_until(Clock::time_point due) {
  for (auto left = due - Clock::now(); left.count() > 0; left = due - Clock::now()) {
    stop_if_cancelled();
    wire_->wait_for(wire_->interrupt_fd(),
                    static_cast<int>(std::chrono::ceil<milliseconds>(left).count()));
  }
}

// The destination saves its machine, which has the guest's shape, and restores it from what comes
// back by the way that the guest's own state would come.
void Source::rehearse_switch_over(DryRun& run) {
  const auto start = Clock::now();
  channel_->send(MessageKind::kRehearse, {});
  const Message state = expect(MessageKind::kState, kRehearseTimeoutMs);
  channel_->send(MessageKind::kState, state.payload);
  expect(MessageKind::kReady, kRehearseTimeoutMs);
  run.fixed_ms = ms_since(start) + kUnrehearsedMs;
  run.state_bytes = state.payload.size();
  if (!options_.verify) return;
  const auto verify_start = Clock::now();
  digest_regions(machine_.memory());
  run.verify_ms = 2 * ms_since(verify_start);  // one end after the other
  run.fixed_ms += run.verify_ms;
}

// The move will decide by what it assumes of the switch-over, which is rehearsed only here.
void Source::foretell(DryRun& run) const {
  RoundFacts facts = wishes();
  facts.dirty_bytes = run.data_bytes();
  facts.unheld_per_ms = facts.bytes_per_ms = run.bytes_per_ms();
  facts.wire_share = run.wire_share();
  if (options_.max_bandwidth > 0) {
    const double held = static_cast<double>(options_.max_bandwidth) / 8000 / run.wire_share();
    facts.bytes_per_ms = std::min(facts.bytes_per_ms, held);
  }
  facts.elapsed_ms = run.setup_ms;
  const auto as_rehearsed = [&](Prediction end) {
    end.downtime_ms += run.fixed_ms - facts.fixed_ms;
    end.total_ms += run.fixed_ms - facts.fixed_ms;
    return end;
  };
  run.status = "would-complete";
  if (options_.mode == Mode::kPostCopy) {
    run.predicted = as_rehearsed(predict_post_copy(facts, run.curve));
    return;
  }
  const Forecast forecast = predict(facts, run.curve);
  if (forecast.end) {
    run.predicted = as_rehearsed(*forecast.end);
    return;
  }
  run.status = "would-not-converge";
  run.reason = forecast.why_not;
  for (const Remedy& remedy : remedies(facts, run.curve)) {
    run.remedies.push_back({remedy.option, as_rehearsed(remedy.prediction)});
  }
}

}  // namespace godwit::migration
