// A set of RAM pages, one bit a page, bit i of word w being page 64 * w + i (the layout of KVM's
// dirty bitmap when RAM is one slot). Not thread-safe. What lies outside throws std::out_of_range.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "vmm/memory/page_range.h"

namespace godwit::memory {

class PageBitmap {
 public:
  explicit PageBitmap(std::uint64_t pages);

  std::uint64_t pages() const { return pages_; }
  /// Set pages.
  std::uint64_t count(PageRange within) const;
  std::uint64_t count() const { return count({0, pages_}); }
  bool test(std::uint64_t page) const;
  /// An empty range is no pages; one that leaves the bitmap throws std::out_of_range.
  void set(PageRange range);
  void reset(PageRange range);
  void clear();
  PageBitmap& operator|=(const PageBitmap& other);
  std::span<std::uint64_t> words() { return words_; }
  std::span<const std::uint64_t> words() const { return words_; }

  /// The maximal runs of set pages inside `within`, ascending, no longer than `max_pages` each.
  std::vector<PageRange> ranges(PageRange within, std::uint64_t max_pages = UINT64_MAX) const;
  std::vector<PageRange> ranges() const { return ranges({0, pages_}); }

 private:
  /// The first page in [page, end) whose bit is `value`, or end.
  std::uint64_t next(std::uint64_t page, std::uint64_t end, bool value) const;
  void check(PageRange range) const;

  std::uint64_t pages_;
  std::vector<std::uint64_t> words_;
};

}  // namespace godwit::memory
