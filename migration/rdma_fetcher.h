// The destination's pages in post-copy by RDMA READ, straight out of the source's RAM into where
// pages land: what somebody waits for first, the rest meanwhile. The source's CPU has no part in
// it. Nothing is written by the source: a page that it pushed might land after the guest has
// written it. One thread, MissingPages' one.
#pragma once

#include <chrono>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <span>
#include <vector>

#include "migration/missing_pages.h"
#include "migration/protocol.h"
#include "migration/rdma_endpoint.h"
#include "vmm/memory/page_bitmap.h"

namespace godwit::migration {

class RdmaFetcher {
 public:
  /// `endpoint` is connected to the source's, which lets it READ what is `offered`.
  /// `bits_per_second`: of the pages that nobody waits for; 0: no limit. Throws ChannelError when a
  /// missing page is not offered.
  RdmaFetcher(std::unique_ptr<RdmaEndpoint> endpoint, MissingPages& pages,
              std::vector<OfferedExtent> offered, std::uint64_t bits_per_second);

  /// Readable when step() may have something to do, if arm() was called since the last one.
  int event_fd() const { return endpoint_->event_fd(); }
  void arm();
  /// Somebody waits for these.
  void want(std::span<const memory::PageRange> pages);
  /// Takes what has arrived and asks for more; false when there was nothing to do. Throws
  /// ChannelError.
  bool step();
  /// When step() will have something to do without an event; -1: never. Milliseconds.
  int next_step_ms() const;

 private:
  using Clock = std::chrono::steady_clock;
  struct Block {
    memory::PageRange range;
    MemoryRegion region;
    unsigned reads = 0;  // under way
  };
  struct Read {
    memory::PageRange range;
    std::uint64_t block;
  };

  const OfferedExtent* extent_of(std::uint64_t page) const;
  Block& block_of(std::uint64_t page, const OfferedExtent& extent);
  std::uint64_t fetch(std::uint64_t page, std::uint64_t most);
  bool fetch_some_more();
  void take_arrived(std::uint64_t count);

  // Before the blocks: their regions belong to its protection domain and must go first.
  std::unique_ptr<RdmaEndpoint> endpoint_;
  MissingPages& pages_;
  const std::vector<OfferedExtent> offered_;  // ascending
  const std::uint64_t bits_per_second_;
  std::map<std::uint64_t, Block> blocks_;  // of where pages land, by first page
  std::deque<Read> reads_;                 // under way, in the order in which they end
  std::deque<std::uint64_t> wanted_;       // pages, where the queue was full
  memory::PageBitmap rest_;                // missing and not under way
  std::uint64_t cursor_ = 0;               // where to go on: behind the last page that was wanted
  Clock::time_point next_push_ = Clock::now();
};

}  // namespace godwit::migration
