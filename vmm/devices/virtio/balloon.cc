#include "vmm/devices/virtio/balloon.h"

#include <algorithm>
#include <cstring>
#include <utility>

namespace godwit::devices {
namespace {

// 5.5.3
constexpr std::uint64_t kFeatureStatistics = 1ULL << 1, kFeatureDeflateOnOom = 1ULL << 2,
                        kFeatureReporting = 1ULL << 5;

constexpr std::array<std::uint16_t, VirtioBalloon::kQueues> kQueueSizes = {
    VirtioBalloon::kQueueSize, VirtioBalloon::kQueueSize, VirtioBalloon::kQueueSize,
    VirtioBalloon::kQueueSize, VirtioBalloon::kQueueSize};

constexpr std::size_t kMaxFrames = 4096;    // in one chain; Linux sends 256
constexpr std::size_t kMaxDeferred = 4096;  // ranges; memory of more than that is not given back
constexpr int kRetryMs = 500;               // until memory is no longer held
constexpr std::uint64_t kFrameSize = memory::kPageSize;  // 5.5.6: 4 KiB, whatever the guest's

struct [[gnu::packed]] Statistic {
  std::uint16_t tag;
  std::uint64_t value;
};
constexpr std::size_t kMaxStatistics = 64;

/// What the driver wrote, at most out.size() bytes of it; returns how many there are in whole.
std::size_t gather(const Chain& chain, std::span<std::byte> out) {
  std::size_t size = 0;
  for (const auto& buffer : chain.readable) {
    if (size < out.size()) {
      std::memcpy(out.data() + size, buffer.data(), std::min(buffer.size(), out.size() - size));
    }
    size += buffer.size();
  }
  return size;
}

}  // namespace

const std::array<const char*, BalloonStatistics::kTags> BalloonStatistics::kNames = {
    "swap_in_bytes",       "swap_out_bytes",  "major_faults",    "minor_faults",
    "free_bytes",          "total_bytes",     "available_bytes", "disk_caches_bytes",
    "hugetlb_allocations", "hugetlb_failures"};

VirtioBalloon::VirtioBalloon(memory::GuestMemory& memory)
    : memory_(memory),
      worker_(
          "virtio-balloon", [this] { serve(); }, [this] { host_->needs_reset(); }) {}

std::uint64_t VirtioBalloon::features() const {
  return kFeatureStatistics | kFeatureDeflateOnOom | kFeatureReporting;
}

std::span<const std::uint16_t> VirtioBalloon::queue_sizes() const { return kQueueSizes; }

std::span<const std::byte> VirtioBalloon::config() const {
  config_ = {target_, actual_};
  return std::as_bytes(std::span(&config_, 1));
}

void VirtioBalloon::write_config(std::uint64_t offset, std::span<const std::byte> data) {
  if (offset != offsetof(Config, actual) || data.size() != sizeof config_.actual) return;
  std::uint32_t pages = 0;
  std::memcpy(&pages, data.data(), sizeof pages);
  actual_ = pages;
}

// 5.5.2 keeps number 3 for hints, which are not offered, and number 2 for statistics; Linux counts
// only what was negotiated. So every queue from there on that is not for statistics is for reports.
VirtioBalloon::Role VirtioBalloon::role(unsigned queue) const {
  if (queue == 0) return Role::kInflate;
  if (queue == 1) return Role::kDeflate;
  if (queue == 2 && (features_ & kFeatureStatistics) != 0) return Role::kStatistics;
  return Role::kReporting;
}

void VirtioBalloon::start(VirtioHost& host, std::uint64_t features,
                          std::span<const VirtioQueuePort> queues) {
  worker_.stop();
  host_ = &host;
  features_ = features;
  for (unsigned i = 0; i < kQueues; ++i) {
    ports_[i] = i < queues.size() && queues[i].queue->enabled() ? queues[i] : VirtioQueuePort{};
  }
  announced_ = actual_;
  worker_.start();
}

void VirtioBalloon::stop() {
  worker_.stop();
  // The driver's buffer goes back into the ring, to be found there again.
  if (std::exchange(statistics_chain_, std::nullopt)) ports_[2].queue->rewind(1);
}

void VirtioBalloon::save(vmm::StateWriter& writer) const {
  writer.put(target_.load());
  writer.put(actual_.load());
  writer.put_array(std::span(deferred_));
}

void VirtioBalloon::restore(vmm::StateReader& reader) {
  target_ = reader.get<std::uint32_t>();
  actual_ = reader.get<std::uint32_t>();
  deferred_ = reader.get_array<memory::PageRange>(kMaxDeferred);
  for (const memory::PageRange& range : deferred_) {
    if (range.first > memory_.pages() || range.count > memory_.pages() - range.first) {
      deferred_.clear();
      reader.fail("its balloon holds pages outside RAM");
    }
  }
}

// The target is the host's, and stays.
void VirtioBalloon::reset() {
  actual_ = 0;
  deferred_.clear();
  const std::lock_guard lock(statistics_mutex_);
  statistics_ = {};
}

void VirtioBalloon::set_target(std::uint32_t pages) {
  target_ = pages;
  worker_.wake();
}

BalloonStatistics VirtioBalloon::statistics() {
  statistics_wanted_ = true;
  worker_.wake();
  const std::lock_guard lock(statistics_mutex_);
  return statistics_;
}

// -- the I/O thread

void VirtioBalloon::serve() {
  bool broken = false;
  std::array<const sys::EventFd*, kQueues> doorbells{};
  for (unsigned i = 0; i < kQueues; ++i) doorbells[i] = ports_[i].doorbell;
  while (!worker_.stopping()) {
    if (const std::uint32_t target = target_; target != announced_) {
      announced_ = target;
      host_->config_changed();
    }
    for (unsigned i = 0; i < kQueues && !broken; ++i) {
      if (ports_[i].queue != nullptr && !serve_queue(i)) {
        broken = true;
        host_->needs_reset();
      }
    }
    if (!broken) refresh_statistics();
    if (!deferred_.empty()) punch_deferred();
    worker_.wait(doorbells, deferred_.empty() ? -1 : kRetryMs);
  }
}

// False when the driver broke the rules.
bool VirtioBalloon::serve_queue(unsigned index) {
  Virtqueue& queue = *ports_[index].queue;
  const Role role = this->role(index);
  do {
    for (;;) {
      if (worker_.stopping()) return true;
      const auto result = queue.pop(chain_);
      if (result == Virtqueue::Pop::kEmpty) break;
      if (result == Virtqueue::Pop::kBroken || !handle(role, chain_)) return false;
      if (role == Role::kStatistics) {
        if (statistics_chain_) return false;  // one buffer is what the driver has (5.5.6.3)
        statistics_chain_ = chain_.head;
        continue;
      }
      chain_.writable.clear();
      if (!queue.push(chain_.head, 0)) return false;
      if (queue.wants_interrupt()) host_->interrupt_queue(index);
    }
  } while (queue.arm_doorbell());
  return !queue.broken();
}

bool VirtioBalloon::handle(Role role, Chain& chain) {
  switch (role) {
    case Role::kInflate:
      return take_pages(chain, true);
    case Role::kDeflate:
      return take_pages(chain, false);
    case Role::kStatistics:
      return take_statistics(chain);
    case Role::kReporting:
      break;
  }
  report(chain);
  return chain.readable.empty();
}

// 5.5.6.1: an array of 32-bit page frame numbers.
bool VirtioBalloon::take_pages(const Chain& chain, bool inflate) {
  frames_.resize(kMaxFrames);
  const std::size_t size = gather(chain, std::as_writable_bytes(std::span(frames_)));
  if (size > kMaxFrames * sizeof(std::uint32_t) || size % sizeof(std::uint32_t) != 0 ||
      !chain.writable.empty()) {
    return false;
  }
  frames_.resize(size / sizeof(std::uint32_t));
  std::sort(frames_.begin(), frames_.end());
  for (std::size_t at = 0; at < frames_.size();) {
    std::size_t end = at + 1;
    while (end < frames_.size() && frames_[end] - frames_[at] == end - at) ++end;
    const auto bytes = memory_.readable(frames_[at] * kFrameSize, (end - at) * kFrameSize);
    if (!bytes) return false;
    const memory::PageRange range = memory_.pages_of(*bytes);
    if (!inflate) {
      forget(range);
    } else if (!memory_.give_back(range) && deferred_.size() < kMaxDeferred) {
      deferred_.push_back(range);
    }
    at = end;
  }
  frames_.clear();
  frames_.shrink_to_fit();
  return true;
}

// The guest has these pages back: what is left of the ranges that hold them stays the balloon's.
void VirtioBalloon::forget(memory::PageRange back) {
  std::vector<memory::PageRange> kept;
  for (const memory::PageRange& range : deferred_) {
    const std::uint64_t before = std::min(range.end(), back.first);
    const std::uint64_t after = std::max(range.first, back.end());
    if (range.first < before) kept.push_back({range.first, before - range.first});
    if (after < range.end()) kept.push_back({after, range.end() - after});
  }
  if (!deferred_.empty()) deferred_ = std::move(kept);
  if (deferred_.size() > kMaxDeferred) deferred_.resize(kMaxDeferred);
}

void VirtioBalloon::punch_deferred() {
  while (!deferred_.empty() && memory_.give_back(deferred_.back())) deferred_.pop_back();
}

// 5.5.6.7: each buffer is free memory. Nothing of it is written, whatever its direction says.
void VirtioBalloon::report(Chain& chain) {
  for (auto& buffer : chain.writable) {
    const memory::PageRange range = memory_.pages_of(buffer.bytes());
    if (memory_.give_back(range)) reported_ += range.bytes();
    buffer.unwritten();
  }
}

bool VirtioBalloon::take_statistics(const Chain& chain) {
  std::array<Statistic, kMaxStatistics> said{};
  const std::size_t size =
      std::min(gather(chain, std::as_writable_bytes(std::span(said))), sizeof said);
  BalloonStatistics statistics;
  for (const Statistic& one : std::span(said).first(size / sizeof(Statistic))) {
    const std::uint64_t value = one.value;  // packed: nothing may refer to it there
    if (one.tag < BalloonStatistics::kTags) statistics.values[one.tag] = value;
  }
  const std::lock_guard lock(statistics_mutex_);
  statistics_ = statistics;
  return chain.writable.empty();
}

// Giving the buffer back is how the driver is asked for news.
void VirtioBalloon::refresh_statistics() {
  if (!statistics_chain_ || !statistics_wanted_.exchange(false)) return;
  Virtqueue& queue = *ports_[2].queue;
  if (!queue.push(*std::exchange(statistics_chain_, std::nullopt), 0)) return;
  if (queue.wants_interrupt()) host_->interrupt_queue(2);
}

}  // namespace godwit::devices
