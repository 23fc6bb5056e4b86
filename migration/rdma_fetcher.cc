#include "migration/rdma_fetcher.h"

#include <algorithm>
#include <array>
#include <utility>

#include "migration/channel.h"

namespace godwit::migration {

using memory::kPageSize;
using memory::PageRange;

namespace {

constexpr std::uint64_t kBlock = 256;     // pages registered at a time
constexpr std::uint64_t kPrefetch = 17;   // pages read where one is waited for
constexpr std::uint64_t kPiece = 32;      // pages of the rest in one READ
constexpr std::size_t kReads = 64;        // under way at once, at most
constexpr std::size_t kReadsOfRest = 3;   // and with nobody waiting: a fault waits behind these
constexpr std::uint64_t kLook = 1 << 16;  // pages to look for missing ones at a time
constexpr std::chrono::milliseconds kBurst{20};

template <typename Do>
auto guarded(Do action) {
  try {
    return action();
  } catch (const RdmaError& error) {
    throw ChannelError(error.what());
  }
}

}  // namespace

RdmaFetcher::RdmaFetcher(std::unique_ptr<RdmaEndpoint> endpoint, MissingPages& pages,
                         std::vector<OfferedExtent> offered, std::uint64_t bits_per_second)
    : endpoint_(std::move(endpoint)),
      pages_(pages),
      offered_(std::move(offered)),
      bits_per_second_(bits_per_second),
      rest_(pages.missing()) {
  for (PageRange missing : rest_.ranges()) {
    while (missing.count > 0) {
      const OfferedExtent* extent = extent_of(missing.first);
      if (extent == nullptr) throw ChannelError("the source did not offer all that is missing");
      const std::uint64_t count = std::min(missing.count, extent->range.end() - missing.first);
      missing = {missing.first + count, missing.count - count};
    }
  }
}

const OfferedExtent* RdmaFetcher::extent_of(std::uint64_t page) const {
  const auto next = std::upper_bound(
      offered_.begin(), offered_.end(), page,
      [](std::uint64_t value, const OfferedExtent& extent) { return value < extent.range.first; });
  if (next == offered_.begin()) return nullptr;
  const OfferedExtent& extent = *std::prev(next);
  return page < extent.range.end() ? &extent : nullptr;
}

RdmaFetcher::Block& RdmaFetcher::block_of(std::uint64_t page, const OfferedExtent& extent) {
  const std::uint64_t aligned = page / kBlock * kBlock;
  const std::uint64_t first = std::max(aligned, extent.range.first);
  const auto found = blocks_.find(first);
  if (found != blocks_.end()) return found->second;
  const PageRange range{first, std::min(aligned + kBlock, extent.range.end()) - first};
  return blocks_
      .emplace(first, Block{range,
                            register_memory(*endpoint_->port().device, pages_.landing(range),
                                            PeerMay::kNothing),
                            0})
      .first->second;
}

/// Reads the missing pages that begin with `page`, at most `most`; returns how many.
std::uint64_t RdmaFetcher::fetch(std::uint64_t page, std::uint64_t most) {
  const OfferedExtent& extent = *extent_of(page);
  Block& block = block_of(page, extent);
  const PageRange piece = rest_.ranges({page, std::min(most, block.range.end() - page)}).front();
  const auto bytes = pages_.landing(piece);
  ibv_sge into{reinterpret_cast<std::uint64_t>(bytes.data()),
               static_cast<std::uint32_t>(bytes.size()), block.region->lkey};
  ibv_send_wr request{};
  request.wr_id = 1;
  request.sg_list = &into;
  request.num_sge = 1;
  request.opcode = IBV_WR_RDMA_READ;
  request.send_flags = IBV_SEND_SIGNALED;
  request.wr.rdma.remote_addr = extent.at.address + (piece.first - extent.range.first) * kPageSize;
  request.wr.rdma.rkey = extent.at.rkey;
  endpoint_->post_send(request);
  reads_.push_back({piece, block.range.first});
  ++block.reads;
  rest_.reset(piece);
  cursor_ = piece.end();
  return piece.count;
}

void RdmaFetcher::want(std::span<const PageRange> pages) {
  for (const PageRange& range : pages) wanted_.push_back(range.first);
}

bool RdmaFetcher::fetch_some_more() {
  while (!wanted_.empty() && reads_.size() < kReads) {
    const std::uint64_t page = wanted_.front();
    wanted_.pop_front();
    if (rest_.test(page)) fetch(page, kPrefetch);
  }
  if (reads_.size() >= kReadsOfRest || Clock::now() < next_push_) return false;
  if (cursor_ >= rest_.pages()) cursor_ = 0;
  const PageRange look{cursor_, std::min(kLook, rest_.pages() - cursor_)};
  const auto missing = rest_.ranges(look, kPiece);
  if (missing.empty()) {
    cursor_ = look.end();
    return look.first != 0 || look.end() != rest_.pages() ? !rest_.ranges().empty() : false;
  }
  const std::uint64_t count = fetch(missing.front().first, kPiece);
  if (bits_per_second_ == 0) return true;
  const double seconds =
      static_cast<double>(count * kPageSize * 8) / static_cast<double>(bits_per_second_);
  next_push_ = std::max(next_push_, Clock::now() - kBurst) +
               std::chrono::microseconds(static_cast<std::int64_t>(seconds * 1e6));
  return true;
}

void RdmaFetcher::take_arrived(std::uint64_t count) {
  for (; count > 0; --count) {
    const Read read = reads_.front();
    reads_.pop_front();
    pages_.arrived(read.range);
    const auto block = blocks_.find(read.block);
    if (--block->second.reads == 0 && rest_.ranges(block->second.range).empty()) {
      blocks_.erase(block);
    }
  }
}

bool RdmaFetcher::step() {
  return guarded([&] {
    const std::uint64_t count = endpoint_->reap_sends();
    if (count > reads_.size()) throw ChannelError("RDMA completed more than was asked for");
    take_arrived(count);
    return fetch_some_more() || count > 0;
  });
}

void RdmaFetcher::arm() {
  guarded([&] {
    endpoint_->drain_events();
    endpoint_->arm();
  });
}

int RdmaFetcher::next_step_ms() const {
  if (bits_per_second_ == 0 || reads_.size() >= kReadsOfRest) return -1;
  const auto due = std::chrono::ceil<std::chrono::milliseconds>(next_push_ - Clock::now());
  return std::max(1, static_cast<int>(due.count()));
}

}  // namespace godwit::migration
