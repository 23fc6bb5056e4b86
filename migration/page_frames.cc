#include "migration/page_frames.h"

#include <sys/uio.h>

#include <algorithm>

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
    wire.send_parts({.kind = MessageKind::kPages}, parts);
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

std::vector<PageRange> receive_page_table(Wire& wire, const FrameHeader& header,
                                          std::uint64_t pages) {
  std::uint64_t count = 0;
  if (header.length < sizeof count) throw ChannelError("the peer sent a truncated list of pages");
  wire.receive_exactly(std::as_writable_bytes(std::span(&count, 1)));
  if (count == 0 || count > kMaxRangesInFrame ||
      header.length < sizeof count + count * sizeof(PageRange)) {
    throw ChannelError("the peer sent a list of pages of an impossible length");
  }
  std::vector<std::byte> table(count * sizeof(PageRange));
  wire.receive_exactly(table);
  auto ranges = decode_ranges(table, pages, kMaxRangesInFrame);
  std::uint64_t bytes = 0;
  for (const PageRange& range : ranges) bytes += range.bytes();
  if (header.length != sizeof count + table.size() + bytes) {
    throw ChannelError("the peer sent more or fewer bytes than its list of pages says");
  }
  return ranges;
}

void receive_pages(Wire& wire, const FrameHeader& header, memory::GuestMemory& memory) {
  std::vector<iovec> parts;
  for (const PageRange& range : receive_page_table(wire, header, memory.pages())) {
    memory.expect_writes(range);
    const auto target = memory.page_bytes(range);
    parts.push_back({target.data(), target.size()});
  }
  wire.receive_parts(parts);
}

void receive_zero(Wire& wire, const FrameHeader& header, memory::GuestMemory& memory) {
  for (const PageRange& range :
       decode_ranges(wire.receive_payload(header), memory.pages(), kMaxRangesInFrame)) {
    memory.punch_hole(range);
  }
}

}  // namespace godwit::migration
