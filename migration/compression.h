// Guest pages compressed with zstd, for links that are slower than that: and whether one is, by
// measurement. Each connection has its own; one thread.
#pragma once

#include <zstd.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "vmm/memory/guest_memory.h"

namespace godwit::migration {

constexpr std::uint64_t kMaxCompressedPages = 256;  // 1 MiB of pages in one Compressed frame
/// What zstd may make of them at most, bytes.
constexpr std::uint64_t kMaxCompressedBytes =
    ZSTD_COMPRESSBOUND(kMaxCompressedPages * memory::kPageSize);

/// Whether and how pages are compressed on one connection.
struct Compression {
  bool wanted = false;
  double limit = 0;  // bytes a second that are to travel at most; 0: no limit
};

class PageCompressor {
 public:
  PageCompressor();
  /// All pages of `ranges`, at most kMaxCompressedPages; until the next call. They may change
  /// meanwhile.
  std::span<const std::byte> compress(const memory::GuestMemory& memory,
                                      std::span<const memory::PageRange> ranges);

 private:
  std::unique_ptr<ZSTD_CCtx, std::size_t (*)(ZSTD_CCtx*)> context_;
  std::vector<std::byte> compressed_;
};

class PageDecompressor {
 public:
  PageDecompressor();
  /// Into RAM. Throws ChannelError unless `compressed` is just these pages; then some of them may
  /// have been written.
  void decompress(std::span<const std::byte> compressed, const memory::GuestMemory& memory,
                  std::span<const memory::PageRange> ranges);

 private:
  std::unique_ptr<ZSTD_DCtx, std::size_t (*)(ZSTD_DCtx*)> context_;
};

/// Whether pages get over a connection sooner when they are compressed: if compressing is faster
/// than the link, and makes enough of them.
class CompressionJudge {
 public:
  using Clock = std::chrono::steady_clock;

  /// `limit`: bytes a second that the link is to carry at most; 0: as many as it can.
  explicit CompressionJudge(double limit = 0) : limit_(limit) {}

  /// To compress took so long and made `after` of `before` bytes.
  void compressed(std::uint64_t before, std::uint64_t after, Clock::duration took);
  /// Just before a frame goes: bytes that have reached the peer so far, and those on their way.
  void link(std::uint64_t arrived, std::uint64_t waiting, Clock::time_point now);
  /// What to do with the next frame.
  bool compress_next();

 private:
  bool pays() const;

  const double limit_;
  double ratio_ = 0;       // before to after; 0: not measured
  double compresses_ = 0;  // bytes before a second
  double link_ = 0;        // bytes a second; 0: not measured
  struct Sample {
    std::uint64_t arrived;
    Clock::time_point when;
  };
  std::optional<Sample> busy_since_;  // the link has had work
  bool starved_ = false;              // it has run out of it since the last look
  unsigned frames_ = 0;
  unsigned plain_to_go_ = 0;  // frames, to measure the link
  unsigned plain_in_a_row_ = 0;
};

}  // namespace godwit::migration
