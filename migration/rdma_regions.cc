#include "migration/rdma_regions.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "vmm/sys/affinity.h"

namespace godwit::migration {

using memory::kPageSize;
using memory::PageRange;

namespace {

constexpr std::uint64_t kBlock = (2ull << 20) / kPageSize;
constexpr std::uint64_t kWorthABlock = kBlock / 4;
constexpr std::uint64_t kMergeGap = 16;  // pages registered in vain to save a region
constexpr std::uint64_t kLargeRegion = (64ull << 20) / kPageSize;
constexpr std::uint64_t kMostRegions = 1024;  // of a large guest, about
constexpr unsigned kMostThreads = 4;

/// `ranges`, with each block of which a quarter is wanted as a whole.
std::vector<PageRange> in_blocks(std::span<const PageRange> ranges, std::uint64_t pages) {
  std::vector<PageRange> result;
  const auto add = [&](PageRange range) {
    if (!result.empty() && range.first <= result.back().end() + kMergeGap) {
      result.back().count = std::max(result.back().end(), range.end()) - result.back().first;
    } else {
      result.push_back(range);
    }
  };
  std::size_t at = 0;
  PageRange rest = ranges.empty() ? PageRange{} : ranges[0];
  std::vector<PageRange> pieces;  // of one block
  while (at < ranges.size()) {
    const std::uint64_t block = rest.first / kBlock * kBlock;
    std::uint64_t wanted = 0;
    pieces.clear();
    while (at < ranges.size() && rest.first < block + kBlock) {
      const PageRange piece{rest.first, std::min(rest.end(), block + kBlock) - rest.first};
      pieces.push_back(piece);
      wanted += piece.count;
      rest = {piece.end(), rest.count - piece.count};
      if (rest.count == 0 && ++at < ranges.size()) rest = ranges[at];
    }
    if (wanted >= kWorthABlock) {
      add({block, std::min(kBlock, pages - block)});
    } else {
      for (const PageRange& piece : pieces) add(piece);
    }
  }
  return result;
}

}  // namespace

std::vector<PageRange> plan_regions(std::span<const PageRange> ranges, std::uint64_t pages) {
  const std::uint64_t largest =
      std::clamp(pages / kMostRegions / kBlock * kBlock, kLargeRegion, kMaxRegion);
  std::uint64_t most = kFirstRegion;
  std::vector<PageRange> regions;
  for (PageRange rest : in_blocks(ranges, pages)) {
    while (rest.count > 0) {
      const std::uint64_t room = kMaxRegion - rest.first % kMaxRegion;
      // Cut between blocks: two regions that share one would keep it from being one page.
      const std::uint64_t cut = (rest.first + most) / kBlock * kBlock - rest.first;
      const PageRange region{rest.first, std::min({rest.count, room, cut})};
      regions.push_back(region);
      rest = {region.end(), rest.count - region.count};
      most = std::min(most * 2, largest);
    }
  }
  return regions;
}

RdmaRegistrar::RdmaRegistrar(memory::GuestMemory& memory, RdmaDevices devices, PeerMay peer_may,
                             bool about_to_be_written)
    : memory_(memory),
      devices_(std::move(devices)),
      peer_may_(peer_may),
      about_to_be_written_(about_to_be_written) {}

RdmaRegistrar::~RdmaRegistrar() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  changed_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

void RdmaRegistrar::add(const PageRange& range) {
  {
    const std::lock_guard lock(mutex_);
    waiting_.push_back(range);
  }
  changed_.notify_one();
  const auto wanted = std::clamp(sys::usable_cpus() / 2, 1u, kMostThreads);
  if (threads_.size() < wanted) threads_.emplace_back([this] { work(); });
}

std::vector<RdmaRegistrar::Registered> RdmaRegistrar::take() {
  event_.drain();
  const std::lock_guard lock(mutex_);
  if (!failure_.empty()) throw RdmaError(failure_);
  return std::exchange(done_, {});
}

std::vector<MemoryRegion> RdmaRegistrar::registered(const PageRange& range) const {
  if (about_to_be_written_) memory_.expect_writes(range);
  std::vector<MemoryRegion> regions;
  for (const auto& device : devices_) {
    regions.push_back(register_memory(*device, memory_.page_bytes(range), peer_may_));
  }
  return regions;
}

void RdmaRegistrar::work() {
  std::unique_lock lock(mutex_);
  for (;;) {
    changed_.wait(lock, [this] { return stop_ || !waiting_.empty(); });
    if (stop_) return;
    const PageRange range = waiting_.front();
    waiting_.pop_front();
    lock.unlock();
    std::vector<MemoryRegion> regions;
    std::string failure;
    try {
      regions = registered(range);
    } catch (const std::exception& error) {
      failure = error.what();
    }
    lock.lock();
    if (failure.empty()) {
      done_.push_back({range, std::move(regions)});
    } else if (failure_.empty()) {
      failure_ = failure;
    }
    event_.signal();
  }
}

std::vector<RdmaRegistrar::Registered> register_all(RdmaRegistrar& registrar,
                                                    std::span<const PageRange> ranges, Wire& wire) {
  for (const PageRange& range : ranges) registrar.add(range);
  std::vector<RdmaRegistrar::Registered> all;
  while (all.size() < ranges.size()) {
    wire.wait_for(registrar.event_fd(), -1);
    std::ranges::move(registrar.take(), std::back_inserter(all));
  }
  return all;
}

}  // namespace godwit::migration
