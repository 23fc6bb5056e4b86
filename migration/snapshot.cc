#include "migration/snapshot.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <utility>

#include "migration/page_scan.h"
#include "vmm/sys/error.h"

namespace godwit::migration {

using memory::kPageSize;
using memory::PageBitmap;
using memory::PageRange;

namespace {

constexpr std::uint64_t kChunk = (16ull << 20) / kPageSize;  // pages re-protected at a time
constexpr std::size_t kMaxRounds = 8;
constexpr double kGoodPauseMs = 5;  // once the rest takes no longer, the guest is paused for it

double ms_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start)
      .count();
}

void write_exactly(int fd, std::span<const std::byte> bytes, std::uint64_t at) {
  while (!bytes.empty()) {
    const ssize_t wrote = ::pwrite(fd, bytes.data(), bytes.size(), static_cast<off_t>(at));
    if (wrote < 0 && errno == EINTR) continue;
    sys::check(wrote, "write the snapshot");
    bytes = bytes.subspan(static_cast<std::size_t>(wrote));
    at += static_cast<std::uint64_t>(wrote);
  }
}

sys::UniqueFd create(const std::string& path) {
  sys::UniqueFd fd(::open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
  if (!fd) sys::throw_errno(path);
  return fd;
}

void flush_directory(const std::string& path) {
  const sys::UniqueFd fd(
      sys::check(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC), path.c_str()));
  sys::check(::fsync(fd.get()), "flush the snapshot's directory");
}

}  // namespace

SnapshotTaker::SnapshotTaker(vmm::Machine& machine, SnapshotOptions options)
    : machine_(machine), options_(std::move(options)), written_(machine.memory().pages()) {}

SnapshotTaker::~SnapshotTaker() = default;

bool SnapshotTaker::run() {
  const bool was_running = machine_.running();
  bool done = false;
  try {
    make_files();
    if (was_running) copy_while_running();
    finish_paused(was_running);
    complete();
    report_.status = "completed";
    done = true;
  } catch (const std::exception& error) {
    report_.status = cancelled_ ? "cancelled" : "failed";
    report_.reason = cancelled_ ? "cancelled" : error.what();
    roll_back(was_running);
  }
  memory_.reset();
  report_.total_ms = ms_since(began_);
  return done;
}

// Beside the directory that it will be, so that it can take its name at once.
void SnapshotTaker::make_files() {
  struct stat info {};
  if (::lstat(options_.directory.c_str(), &info) == 0) {
    throw SnapshotError(options_.directory + " exists: a snapshot makes its own directory");
  }
  std::string name = options_.directory + ".XXXXXX";
  if (::mkdtemp(name.data()) == nullptr)
    sys::throw_errno("make a directory beside " + options_.directory);
  temporary_ = name;
  memory_ = create(temporary_ + "/memory");
  snapshot_.id = new_snapshot_id();
  const MemoryTrailer trailer{.id = snapshot_.id};
  write_exactly(memory_.get(), std::as_bytes(std::span(&trailer, 1)), machine_.memory().size());
}

void SnapshotTaker::copy_while_running() {
  memory::DirtyLog& log = machine_.dirty_log();
  log.start();
  logging_ = true;
  PageBitmap pending(machine_.memory().pages());
  for (;;) {
    pending.clear();
    log.collect(pending);  // at first all of RAM
    if (!report_.rounds.empty()) {
      report_.rounds.back().dirty_pages = pending.count();
      if (!another_round(pending.count() * kPageSize)) return;
    }
    const auto start = Clock::now();
    write_pass(pending);
    report_.rounds.push_back({round_pages_, round_pages_ * kPageSize, ms_since(start), 0});
  }
}

/// Another round pays while what is left would pause the guest for long, and shrinks.
bool SnapshotTaker::another_round(std::uint64_t dirty_bytes) const {
  double bytes = 0;
  double ms = 0;
  for (const Round& round : report_.rounds) {
    bytes += static_cast<double>(round.bytes);
    ms += round.ms;
  }
  const double pause_ms = bytes > 0 ? static_cast<double>(dirty_bytes) * ms / bytes : 0;
  if (pause_ms <= kGoodPauseMs || report_.rounds.size() >= kMaxRounds) return false;
  return report_.rounds.size() == 1 || dirty_bytes < report_.rounds.back().bytes / 10 * 9;
}

// As a move's: re-protects a chunk before reading it, so that what is written meanwhile is dirty
// for the next round.
void SnapshotTaker::write_pass(const PageBitmap& pending) {
  memory::GuestMemory& memory = machine_.memory();
  round_pages_ = 0;
  PageRange seen{};
  for (std::uint64_t at = 0; at < memory.pages(); at += kChunk) {
    const PageRange chunk{at, std::min(kChunk, memory.pages() - at)};
    std::vector<PageRange> ranges = pending.ranges(chunk);
    if (ranges.empty()) continue;
    machine_.dirty_log().clear(chunk);
    if (report_.rounds.empty()) ranges = memory.populated(chunk, seen);
    write_ranges(ranges);
  }
}

void SnapshotTaker::write_ranges(const std::vector<PageRange>& ranges) {
  const ScannedPages scanned = scan_pages(machine_.memory(), ranges);
  for (const PageRange& range : scanned.data) write_data(range);
  for (const PageRange& range : scanned.zero) {
    for (const PageRange& old : written_.ranges(range)) write_zero(old);
  }
}

void SnapshotTaker::write_data(PageRange range) {
  while (range.count > 0) {
    stop_if_cancelled();
    const PageRange piece{range.first, std::min(range.count, kChunk)};
    write_exactly(memory_.get(), machine_.memory().page_bytes(piece), piece.offset());
    written_.set(piece);
    round_pages_ += piece.count;
    range = {piece.end(), range.count - piece.count};
  }
}

void SnapshotTaker::write_zero(PageRange range) {
  if (::fallocate(memory_.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                  static_cast<off_t>(range.offset()), static_cast<off_t>(range.bytes())) == 0) {
    written_.reset(range);
    return;
  }
  if (errno != EOPNOTSUPP) sys::throw_errno("punch a hole into the snapshot");
  const std::vector<std::byte> zeroes(kPageSize);
  for (std::uint64_t page = range.first; page < range.end(); ++page) {
    write_exactly(memory_.get(), zeroes, page * kPageSize);
  }
}

void SnapshotTaker::finish_paused(bool was_running) {
  stop_if_cancelled();
  const auto start = Clock::now();
  machine_.pause();
  // State first: on old kernels saving it dirties pages that no running vCPU would report.
  snapshot_.machine = machine_.config();
  snapshot_.requirements = machine_.requirements();
  snapshot_.state = machine_.save();
  if (options_.stop) {
    unlocked_ = true;
    machine_.unlock_disks();
  }
  for (const vmm::DiskConfig& disk : snapshot_.machine.disks) {
    snapshot_.disks.push_back(stamp_of(disk));
  }
  round_pages_ = 0;
  const auto round_start = Clock::now();
  PageBitmap pending(machine_.memory().pages());
  if (was_running) {
    machine_.dirty_log().collect(pending);
    write_ranges(pending.ranges());
  } else {
    write_ranges(machine_.memory().populated({0, machine_.memory().pages()}));
  }
  report_.rounds.push_back({round_pages_, round_pages_ * kPageSize, ms_since(round_start), 0});
  if (was_running && !options_.stop) machine_.resume();
  if (was_running) report_.pause_ms = ms_since(start);
  if (logging_) machine_.dirty_log().stop();
  logging_ = false;
}

// The guest runs again. Everything is on disk before the directory gets its name.
void SnapshotTaker::complete() {
  report_.memory_bytes = written_.count() * kPageSize;
  report_.state_bytes = snapshot_.state.size();
  snapshot_.memory_checksum =
      checksum_of_memory(memory_.get(), machine_.memory().size(), [this] { stop_if_cancelled(); });
  const std::vector<std::byte> bytes = encode_snapshot(snapshot_);
  const sys::UniqueFd state = create(temporary_ + "/state");
  write_exactly(state.get(), bytes, 0);
  sys::check(::fsync(memory_.get()), "flush the snapshot's memory");
  sys::check(::fsync(state.get()), "flush the snapshot's state");
  flush_directory(temporary_);
  stop_if_cancelled();
  if (::renameat2(AT_FDCWD, temporary_.c_str(), AT_FDCWD, options_.directory.c_str(),
                  RENAME_NOREPLACE) != 0) {
    sys::throw_errno("name the snapshot " + options_.directory);
  }
  temporary_.clear();
  try {
    flush_directory(std::filesystem::path(options_.directory).parent_path());
  } catch (const std::exception&) {  // not durable for certain: then it is none
    temporary_ = options_.directory;
    throw;
  }
}

void SnapshotTaker::roll_back(bool was_running) noexcept {
  try {
    if (unlocked_) machine_.lock_disks();
    if (was_running && !machine_.running()) machine_.resume();
  } catch (const std::exception& error) {
    report_.reason +=
        fmt::format("; and the guest cannot go on: {}: it stays paused", error.what());
  }
  try {
    if (logging_) machine_.dirty_log().stop();
  } catch (const std::exception& error) {
    report_.reason += fmt::format("; {}", error.what());
  }
  std::error_code ignored;
  if (!temporary_.empty()) std::filesystem::remove_all(temporary_, ignored);
}

void SnapshotTaker::stop_if_cancelled() const {
  if (cancelled_) throw SnapshotError("cancelled");
}

std::unique_ptr<vmm::Machine> restore_machine(OpenSnapshot open, vmm::ConsoleSink console,
                                              const std::vector<std::string>& moved_disks) {
  Snapshot& snapshot = open.snapshot;
  if (const std::string why = vmm::Machine::refusal(snapshot.requirements); !why.empty()) {
    throw SnapshotError(why);
  }
  vmm::MachineConfig config = snapshot.machine;
  if (!moved_disks.empty() && moved_disks.size() != config.disks.size()) {
    throw SnapshotError(
        fmt::format("the guest has {} disks, not {}", config.disks.size(), moved_disks.size()));
  }
  for (std::size_t i = 0; i < moved_disks.size(); ++i) config.disks[i].path = moved_disks[i];
  auto machine = std::make_unique<vmm::Machine>(config, std::move(console),
                                                memory::GivenRam{std::move(open.memory)});
  machine->lock_disks();
  for (std::size_t i = 0; i < config.disks.size(); ++i) {
    const DiskStamp now = stamp_of(config.disks[i]);
    const DiskStamp& then = snapshot.disks[i];
    const std::string& path = config.disks[i].path;
    if (then.size >= 0 && now.size != then.size) {
      throw SnapshotError(fmt::format("{}: {} bytes, at the time of the snapshot it was {}", path,
                                      now.size, then.size));
    }
    if (moved_disks.empty() && now != then) {
      throw SnapshotError(
          fmt::format("{}: written to since the snapshot, which would corrupt the guest's files; "
                      "--disk takes a copy of that time",
                      path));
    }
  }
  machine->restore(snapshot.state, vmm::Machine::kLongestSleep);
  machine->renew_generation();
  return machine;
}

nlohmann::json to_json(const SnapshotReport& report) {
  nlohmann::json rounds = nlohmann::json::array();
  for (const Round& round : report.rounds) {
    rounds.push_back({{"pages", round.pages},
                      {"bytes", round.bytes},
                      {"ms", round.ms},
                      {"dirty_pages", round.dirty_pages}});
  }
  return {{"status", report.status},
          {"reason", report.reason},
          {"total_ms", report.total_ms},
          {"pause_ms", report.pause_ms},
          {"rounds", std::move(rounds)},
          {"bytes", {{"ram", report.memory_bytes}, {"state", report.state_bytes}}}};
}

}  // namespace godwit::migration
