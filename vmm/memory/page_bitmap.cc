#include "vmm/memory/page_bitmap.h"

#include <algorithm>
#include <bit>
#include <stdexcept>

namespace godwit::memory {
namespace {

constexpr std::uint64_t kAll = ~std::uint64_t{0};

/// Bits of word `word` that lie in [first, end).
std::uint64_t mask_of(std::uint64_t word, std::uint64_t first, std::uint64_t end) {
  const std::uint64_t low = word * 64;
  std::uint64_t mask = kAll;
  if (first > low) mask &= kAll << (first - low);
  if (end < low + 64) mask &= ~(kAll << (end - low));
  return mask;
}

}  // namespace

PageBitmap::PageBitmap(std::uint64_t pages) : pages_(pages), words_((pages + 63) / 64) {}

std::uint64_t PageBitmap::count(PageRange within) const {
  check(within);
  if (within.count == 0) return 0;
  std::uint64_t total = 0;
  for (std::uint64_t w = within.first / 64; w <= (within.end() - 1) / 64; ++w) {
    total +=
        static_cast<unsigned>(std::popcount(words_[w] & mask_of(w, within.first, within.end())));
  }
  return total;
}

bool PageBitmap::test(std::uint64_t page) const {
  if (page >= pages_) throw std::out_of_range("page outside the bitmap");
  return ((words_[page / 64] >> (page % 64)) & 1) != 0;
}

void PageBitmap::set(PageRange range) {
  check(range);
  if (range.count == 0) return;
  for (std::uint64_t w = range.first / 64; w <= (range.end() - 1) / 64; ++w) {
    words_[w] |= mask_of(w, range.first, range.end());
  }
}

void PageBitmap::reset(PageRange range) {
  check(range);
  if (range.count == 0) return;
  for (std::uint64_t w = range.first / 64; w <= (range.end() - 1) / 64; ++w) {
    words_[w] &= ~mask_of(w, range.first, range.end());
  }
}

void PageBitmap::clear() { std::fill(words_.begin(), words_.end(), 0); }

PageBitmap& PageBitmap::operator|=(const PageBitmap& other) {
  if (other.pages_ != pages_) throw std::invalid_argument("bitmaps of different sizes");
  for (std::size_t i = 0; i < words_.size(); ++i) words_[i] |= other.words_[i];
  return *this;
}

std::vector<PageRange> PageBitmap::ranges(PageRange within, std::uint64_t max_pages) const {
  check(within);
  if (max_pages == 0) throw std::invalid_argument("page runs of zero pages");
  std::vector<PageRange> runs;
  std::uint64_t page = next(within.first, within.end(), true);
  while (page < within.end()) {
    const std::uint64_t end = next(page, within.end(), false);
    for (std::uint64_t left = end - page; left != 0;) {
      const std::uint64_t count = std::min(left, max_pages);
      runs.push_back({end - left, count});
      left -= count;
    }
    page = next(end, within.end(), true);
  }
  return runs;
}

std::uint64_t PageBitmap::next(std::uint64_t page, std::uint64_t end, bool value) const {
  while (page < end) {
    const std::uint64_t word = value ? words_[page / 64] : ~words_[page / 64];
    const std::uint64_t rest = word & (kAll << (page % 64));
    if (rest != 0) {
      const std::uint64_t found = page / 64 * 64 + static_cast<unsigned>(std::countr_zero(rest));
      return std::min(found, end);
    }
    page = (page / 64 + 1) * 64;
  }
  return end;
}

void PageBitmap::check(PageRange range) const {
  if (range.first > pages_ || range.count > pages_ - range.first) {
    throw std::out_of_range("page range outside the bitmap");
  }
}

}  // namespace godwit::memory
