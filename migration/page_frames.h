// Guest pages as frames of a Wire: straight out of guest RAM, straight into it (wire_pages.cc).
// Free functions over one connection; a thread each may do this on connections of its own.
#pragma once

#include <optional>
#include <span>
#include <vector>

#include "migration/cheaper_way.h"
#include "migration/compression.h"
#include "migration/wire.h"
#include "vmm/memory/guest_memory.h"

namespace godwit::migration {

/// Pages frames; heeds the peer before each.
void send_pages(Wire& wire, const memory::GuestMemory& memory,
                std::span<const memory::PageRange> ranges);
/// Zero frames.
void send_zero(Wire& wire, std::span<const memory::PageRange> ranges);

/// send_pages(), or Compressed frames where these are faster.
class PageSender {
 public:
  /// Both must outlive it.
  PageSender(Wire& wire, const memory::GuestMemory& memory, const Compression& compression);
  void send(std::span<const memory::PageRange> ranges);

 private:
  void look_at_link();
  void send_compressed(std::span<const memory::PageRange> ranges);

  Wire& wire_;
  const memory::GuestMemory& memory_;
  std::optional<PageCompressor> compressor_;
  CompressionJudge judge_;
};

/// The first part of a Pages frame's payload: the ranges whose bytes follow, checked against the
/// frame's length and RAM of `pages` pages.
std::vector<memory::PageRange> receive_page_table(Wire& wire, const FrameHeader& header,
                                                  std::uint64_t pages);

constexpr bool carries_pages(MessageKind kind) {
  return kind == MessageKind::kPages || kind == MessageKind::kZero ||
         kind == MessageKind::kCompressed;
}

/// Takes frames that carry pages into RAM; those of a Zero frame become holes.
class PageReceiver {
 public:
  /// Both must outlive it.
  PageReceiver(Wire& wire, memory::GuestMemory& memory) : wire_(wire), memory_(memory) {}
  void receive(const FrameHeader& header);

 private:
  void receive_pages(const FrameHeader& header);
  void receive_compressed(const FrameHeader& header);
  void receive_zero(const FrameHeader& header);

  Wire& wire_;
  memory::GuestMemory& memory_;
  std::optional<PageDecompressor> decompressor_;
  CheaperWay way_;  // of pages that are there already
};

}  // namespace godwit::migration
