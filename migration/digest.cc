#include "migration/digest.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "migration/channel.h"

namespace godwit::migration {

using memory::kPageSize;
using memory::PageRange;

namespace {

// With 0 to begin with, zeros have the CRC 0: a zero page is as good as a hole. Every x86-64 with
// virtualisation has SSE 4.2.
__attribute__((target("sse4.2"))) std::uint64_t crc32c(const std::byte* bytes, std::size_t size) {
  std::uint64_t crc = 0;
  for (std::size_t at = 0; at < size; at += sizeof(std::uint64_t)) {
    std::uint64_t word = 0;
    std::memcpy(&word, bytes + at, sizeof word);
    crc = __builtin_ia32_crc32di(crc, word);
  }
  return crc;
}

/// So that pages which have changed places do not add up to the same (the finaliser of
/// SplitMix64).
std::uint64_t mix(std::uint64_t crc, std::uint64_t page) {
  std::uint64_t x = (crc << 32 | crc) + page * 0x9e3779b97f4a7c15;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
  x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
  return x ^ (x >> 31);
}

}  // namespace

std::vector<std::uint64_t> digest_regions(const memory::GuestMemory& memory) {
  std::vector<std::uint64_t> digests((memory.pages() + kDigestRegion - 1) / kDigestRegion);
  for (const PageRange& range : memory.populated({0, memory.pages()})) {
    const std::byte* bytes = memory.page_bytes(range).data();
    for (std::uint64_t page = range.first; page < range.end(); ++page, bytes += kPageSize) {
      const std::uint64_t crc = crc32c(bytes, kPageSize);
      if (crc != 0) digests[page / kDigestRegion] += mix(crc, page);
    }
  }
  return digests;
}

void require_same_memory(const memory::GuestMemory& memory, std::span<const std::byte> theirs) {
  const std::vector<std::uint64_t> mine = digest_regions(memory);
  if (theirs.size() != mine.size() * sizeof(std::uint64_t)) {
    throw ChannelError("the peer sent digests of another number of regions of memory");
  }
  std::vector<std::uint64_t> sent(mine.size());
  std::memcpy(sent.data(), theirs.data(), theirs.size());
  std::uint64_t different = 0;
  std::uint64_t first = 0;
  for (std::uint64_t i = mine.size(); i-- > 0;) {
    if (mine[i] == sent[i]) continue;
    ++different;
    first = i;
  }
  if (different == 0) return;
  throw ChannelError(fmt::format(
      "memory arrived altered: {} of {} regions of 16 MiB differ, the first at {} MiB of RAM: "
      "check the memory and network of both hosts",
      different, mine.size(), first * 16));
}

}  // namespace godwit::migration
