#include "migration/page_frames.h"

#include <sys/uio.h>

#include <algorithm>
#include <array>
#include <ctime>

namespace godwit::migration {

using memory::PageRange;

void send_pages(Wire& wire, const memory::GuestMemory& memory, std::span<const PageRange> ranges) {
  std::vector<PageRange> table;
  std::vector<iovec> parts;
  std::uint64_t count = 0;
  std::uint64_t pages = 0;
  const auto begin = [&] {
    table.clear();
    table.reserve(kMaxRangesInFrame);  // the iovec below points into it
    pages = 0;
    parts.assign(3, {});
  };
  const auto end = [&] {
    if (table.empty()) return;
    wire.heed_peer();
    count = table.size();
    parts[1] = {&count, sizeof count};
    parts[2] = {table.data(), table.size() * sizeof(PageRange)};
    wire.send_parts({.kind = MessageKind::kPages}, parts, true);
  };
  begin();
  for (PageRange rest : ranges) {
    while (rest.count > 0) {
      const PageRange piece{rest.first, std::min(rest.count, kMaxFramePages - pages)};
      table.push_back(piece);
      const auto bytes = memory.page_bytes(piece);
      parts.push_back({bytes.data(), bytes.size()});
      pages += piece.count;
      rest = {piece.end(), rest.count - piece.count};
      if (pages == kMaxFramePages || table.size() == kMaxRangesInFrame) {
        end();
        begin();
      }
    }
  }
  end();
}

void send_zero(Wire& wire, std::span<const PageRange> ranges) {
  while (!ranges.empty()) {
    const auto some = ranges.first(std::min<std::size_t>(ranges.size(), kMaxRangesInFrame));
    wire.send({.kind = MessageKind::kZero}, std::as_bytes(some));
    ranges = ranges.subspan(some.size());
  }
}

PageSender::PageSender(Wire& wire, const memory::GuestMemory& memory,
                       const Compression& compression)
    : wire_(wire), memory_(memory), judge_(compression.limit) {
  if (compression.wanted) compressor_.emplace();
}

void PageSender::send(std::span<const PageRange> ranges) {
  if (!compressor_) return send_pages(wire_, memory_, ranges);
  std::vector<PageRange> batch;
  std::uint64_t pages = 0;
  const auto end = [&] {
    if (judge_.compress_next()) {
      send_compressed(batch);
    } else {
      look_at_link();
      send_pages(wire_, memory_, batch);
    }
    batch.clear();
    pages = 0;
  };
  for (PageRange rest : ranges) {
    while (rest.count > 0) {
      const PageRange piece{rest.first, std::min(rest.count, kMaxCompressedPages - pages)};
      batch.push_back(piece);
      pages += piece.count;
      rest = {piece.end(), rest.count - piece.count};
      if (pages == kMaxCompressedPages) end();
    }
  }
  if (pages > 0) end();
}

void PageSender::look_at_link() {
  const std::uint64_t waiting = wire_.unacknowledged();
  judge_.link(wire_.bytes_sent() - waiting, waiting, CompressionJudge::Clock::now());
}

void PageSender::send_compressed(std::span<const PageRange> ranges) {
  wire_.heed_peer();
  const auto start = CompressionJudge::Clock::now();
  const auto compressed = compressor_->compress(memory_, ranges);
  judge_.compressed(memory::pages_in(ranges) * memory::kPageSize, compressed.size(),
                    CompressionJudge::Clock::now() - start);
  look_at_link();
  std::uint64_t count = ranges.size();
  std::array<iovec, 4> parts{{{},
                              {&count, sizeof count},
                              {const_cast<PageRange*>(ranges.data()), ranges.size_bytes()},
                              {const_cast<std::byte*>(compressed.data()), compressed.size()}}};
  wire_.send_parts({.kind = MessageKind::kCompressed}, parts);
}

namespace {

constexpr std::uint64_t table_bytes(std::uint64_t ranges) {
  return sizeof ranges + ranges * sizeof(PageRange);
}

/// The list of ranges, at most `most`, that the payload of a frame with pages begins with.
std::vector<PageRange> receive_ranges(Wire& wire, const FrameHeader& header, std::uint64_t pages,
                                      std::uint64_t most) {
  std::uint64_t count = 0;
  if (header.length < sizeof count) throw ChannelError("the peer sent a truncated list of pages");
  wire.receive_exactly(std::as_writable_bytes(std::span(&count, 1)));
  if (count == 0 || count > most || header.length < table_bytes(count)) {
    throw ChannelError("the peer sent a list of pages of an impossible length");
  }
  std::vector<std::byte> table(count * sizeof(PageRange));
  wire.receive_exactly(table);
  return decode_ranges(table, pages, most);
}

}  // namespace

std::vector<PageRange> receive_page_table(Wire& wire, const FrameHeader& header,
                                          std::uint64_t pages) {
  auto ranges = receive_ranges(wire, header, pages, kMaxRangesInFrame);
  std::uint64_t bytes = 0;
  for (const PageRange& range : ranges) bytes += range.bytes();
  if (header.length != table_bytes(ranges.size()) + bytes) {
    throw ChannelError("the peer sent more or fewer bytes than its list of pages says");
  }
  return ranges;
}

void PageReceiver::receive(const FrameHeader& header) {
  if (header.kind == MessageKind::kPages) {
    receive_pages(header);
  } else if (header.kind == MessageKind::kCompressed) {
    receive_compressed(header);
  } else {
    receive_zero(header);
  }
}

namespace {

constexpr int kPastMapping = 1;  // of the two ways; the other is through it

double thread_cpu_ns() {
  timespec now{};
  ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) * 1e9 + static_cast<double>(now.tv_nsec);
}

}  // namespace

void PageReceiver::receive_pages(const FrameHeader& header) {
  std::vector<iovec> mapped;
  const auto receive_mapped = [&] {
    wire_.receive_parts(mapped);
    mapped.clear();
  };
  const auto take = [&](const PageRange& range, bool past_mapping) {
    const auto target = memory_.page_bytes(range);
    if (past_mapping) {
      receive_mapped();
      wire_.receive_into_file(memory_.memfd(), range.first * memory::kPageSize, target.size());
    } else if (!target.empty()) {
      mapped.push_back({target.data(), target.size()});
    }
  };
  const bool splices = wire_.splices() && memory_.takes_file_writes();
  // Through the mapping each of these is a fault, and cleared first.
  const auto take_fresh = [&](const PageRange& range) {
    take(range, splices && range.bytes() >= Wire::kWorthSplicing);
  };
  // Of what is there already the machine knows best how it is written.
  const auto take_cheaper = [&](const PageRange& range) {
    receive_mapped();  // no part of what it costs
    const int way = way_.next();
    const double before = thread_cpu_ns();
    take(range, way == kPastMapping);
    receive_mapped();
    way_.cost(way, (thread_cpu_ns() - before) / static_cast<double>(range.count));
  };
  for (const PageRange& range : receive_page_table(wire_, header, memory_.pages())) {
    const PageRange there = memory_.expect_writes(range);
    take_fresh({range.first, there.first - range.first});
    if (splices && there.count > 0) {
      take_cheaper(there);
    } else {
      take(there, false);
    }
    take_fresh({there.end(), range.end() - there.end()});
  }
  receive_mapped();
}

void PageReceiver::receive_compressed(const FrameHeader& header) {
  const auto ranges = receive_ranges(wire_, header, memory_.pages(), kMaxCompressedPages);
  if (memory::pages_in(ranges) > kMaxCompressedPages)
    throw ChannelError("the peer compressed too many pages into one frame");
  std::vector<std::byte> compressed(header.length - table_bytes(ranges.size()));
  wire_.receive_exactly(compressed);
  for (const PageRange& range : ranges) memory_.expect_writes(range);
  if (!decompressor_) decompressor_.emplace();
  decompressor_->decompress(compressed, memory_, ranges);
}

void PageReceiver::receive_zero(const FrameHeader& header) {
  for (const PageRange& range :
       decode_ranges(wire_.receive_payload(header), memory_.pages(), kMaxRangesInFrame)) {
    memory_.punch_hole(range);
  }
}

}  // namespace godwit::migration
