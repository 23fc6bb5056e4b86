// Pages of guest RAM, counted from the start of RAM: page p is bytes [p * 4096, (p + 1) * 4096) of
// GuestMemory's one memfd, whatever its guest-physical address. Both ends of a move number them
// alike.
#pragma once

#include <cstdint>
#include <span>

namespace godwit::memory {

constexpr std::uint64_t kPageSize = 4096;
constexpr std::uint64_t kHugePagePages = 512;  // of 2 MiB

struct PageRange {
  std::uint64_t first = 0;  // page number
  std::uint64_t count = 0;  // pages

  std::uint64_t end() const { return first + count; }
  std::uint64_t offset() const { return first * kPageSize; }  // bytes into RAM
  std::uint64_t bytes() const { return count * kPageSize; }
  bool operator==(const PageRange&) const = default;
};

inline std::uint64_t pages_in(std::span<const PageRange> ranges) {
  std::uint64_t pages = 0;
  for (const PageRange& range : ranges) pages += range.count;
  return pages;
}

}  // namespace godwit::memory
