// Which pages are worth sending: the zero test of the first pass and of pages that became zero, and
// before post-copy the last few that a block lacks.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "vmm/memory/guest_memory.h"
#include "vmm/memory/page_bitmap.h"

namespace godwit::migration {

/// True when every byte is zero; the size must be a multiple of 64 bytes. Stops at the first that
/// is not.
bool all_zero(std::span<const std::byte> bytes);

struct ScannedPages {
  std::vector<memory::PageRange> data;  // maximal runs of pages that are not zero, ascending
  std::vector<memory::PageRange> zero;  // maximal runs of zero pages, ascending
};

/// Sorts the pages of `ranges` (ascending) by content, as it is right now.
ScannedPages scan_pages(const memory::GuestMemory& memory,
                        std::span<const memory::PageRange> ranges);

/// Of the pages in `missing` those in blocks of 2 MiB that lack at most 32, maximal runs within a
/// block, ascending.
std::vector<memory::PageRange> strays(const memory::PageBitmap& missing);

}  // namespace godwit::migration
