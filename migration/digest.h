// Digests of guest RAM, to prove at both ends of a move that it is the same: CRC-32C of each page,
// mixed with the page's number and summed up by region. Against faults of hardware and of ours, not
// against a peer that lies. Any thread, while nobody writes RAM.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "vmm/memory/guest_memory.h"

namespace godwit::migration {

constexpr std::uint64_t kDigestRegion = (16ull << 20) / memory::kPageSize;  // pages

/// One digest a region of RAM, the last may be shorter. Holes count as zero pages, and are not
/// populated by it.
std::vector<std::uint64_t> digest_regions(const memory::GuestMemory& memory);

/// Throws ChannelError naming the regions that differ; `theirs` as sent by the source.
void require_same_memory(const memory::GuestMemory& memory, std::span<const std::byte> theirs);

}  // namespace godwit::migration
