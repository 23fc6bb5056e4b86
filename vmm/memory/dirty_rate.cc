#include "vmm/memory/dirty_rate.h"

#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

namespace godwit::memory {
namespace {

constexpr std::uint64_t kMinBlockPages = 512;  // 2 MiB
constexpr std::uint64_t kMaxBlocks = 512;
constexpr unsigned kTries = 2048;  // a call: looks for pages that are populated

/// Four lanes, so that the multiplications overlap. Not for an adversary: a guest that hides its
/// writes from this harms only its own moves.
std::uint64_t hash(std::span<const std::byte> bytes) {
  constexpr std::uint64_t kPrime = 0x9fb2'1c65'1e98'df25;
  std::uint64_t lanes[4] = {1, 2, 3, 4};
  for (std::size_t at = 0; at + sizeof lanes <= bytes.size(); at += sizeof lanes) {
    std::uint64_t words[4];
    std::memcpy(words, bytes.data() + at, sizeof words);
    for (unsigned i = 0; i < 4; ++i) {
      lanes[i] = std::rotl((lanes[i] ^ words[i]) * kPrime, 29);
    }
  }
  std::uint64_t result = 0;
  for (const std::uint64_t lane : lanes) result = std::rotl((result ^ lane) * kPrime, 29);
  return result;
}

}  // namespace

DirtyRate::DirtyRate(std::uint64_t seed) : random_(seed), buffer_(kPageSize) {}

void DirtyRate::reset() {
  pages_.clear();
  blocks_.clear();
  oldest_ = 0;
  last_.reset();
  populated_ = 0;
  rate_.reset();
}

double DirtyRate::sample(const GuestMemory& memory, TimePoint now, bool renew) {
  if (last_ && now < *last_ + kMinInterval) return rate_.value_or(0);
  const std::uint64_t populated = memory.populated_bytes();
  std::size_t renewed = kRenewed;
  if (last_) {
    const double seconds = std::chrono::duration<double>(now - *last_).count();
    const std::uint64_t grown = populated > populated_ ? populated - populated_ : 0;
    if (grown > 0) renewed += kSample * grown / populated;  // what is new has its share
    const double kept = static_cast<double>(std::min(populated_, populated));
    const double rate = (changed_share(memory) * kept + static_cast<double>(grown)) / seconds;
    const double weight = 1 - std::exp(-seconds / std::chrono::duration<double>(kMemory).count());
    rate_ = rate_ ? *rate_ + weight * (rate - *rate_) : rate;
  }
  if (renew) choose_pages(memory, renewed);
  last_ = now;
  populated_ = populated;
  return rate_.value_or(0);
}

std::optional<std::uint64_t> DirtyRate::hash_of(const GuestMemory& memory, std::uint64_t page) {
  if (!memory.peek(page, buffer_)) return std::nullopt;
  return hash(buffer_);
}

/// Looks at the whole sample again; a page that is not in memory any more is as it was.
double DirtyRate::changed_share(const GuestMemory& memory) {
  if (pages_.empty()) return 0;
  std::size_t changed = 0;
  for (Page& page : pages_) {
    const auto now = hash_of(memory, page.number);
    if (!now || *now == page.hash) continue;
    page.hash = *now;
    ++changed;
  }
  return static_cast<double>(changed) / static_cast<double>(pages_.size());
}

/// Fills the sample, or replaces its `renew` oldest pages, so that it follows what the guest uses.
void DirtyRate::choose_pages(const GuestMemory& memory, std::size_t renew) {
  find_blocks(memory);
  unsigned tries = kTries;
  for (std::size_t renewed = 0; pages_.size() < kSample || renewed < renew; ++renewed) {
    const auto page = choose(memory, tries);
    if (!page) break;  // little is populated: the next call goes on
    if (pages_.size() < kSample) {
      pages_.push_back(*page);
    } else {
      pages_[oldest_] = *page;
      oldest_ = (oldest_ + 1) % kSample;
    }
  }
}

/// Which blocks hold data at all, at a cost that does not grow with memory: SEEK_DATA stops at the
/// first page, where SEEK_HOLE would walk over all of them (13 ms/GiB).
void DirtyRate::find_blocks(const GuestMemory& memory) {
  blocks_.clear();
  block_pages_ = std::max(kMinBlockPages, (memory.pages() + kMaxBlocks - 1) / kMaxBlocks);
  const std::uint64_t block_bytes = block_pages_ * kPageSize;
  for (std::uint64_t block = 0; block * block_bytes < memory.size(); ++block) {
    if (memory.private_copy()) {  // the file does not know what was written since
      blocks_.push_back(block);
      continue;
    }
    const off_t data = ::lseek(memory.memfd(), static_cast<off_t>(block * block_bytes), SEEK_DATA);
    if (data < 0) break;  // ENXIO: only holes from here on
    block = static_cast<std::uint64_t>(data) / block_bytes;
    blocks_.push_back(block);
  }
}

/// Every populated page with the same likelihood: any page of any block, until one holds data.
std::optional<DirtyRate::Page> DirtyRate::choose(const GuestMemory& memory, unsigned& tries) {
  if (blocks_.empty()) return std::nullopt;
  for (; tries > 0; --tries) {
    const std::uint64_t at = random_() % (blocks_.size() * block_pages_);
    const std::uint64_t page = blocks_[at / block_pages_] * block_pages_ + at % block_pages_;
    if (const auto now = hash_of(memory, page)) return Page{page, *now};
  }
  return std::nullopt;
}

}  // namespace godwit::memory
