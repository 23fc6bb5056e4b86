#include "migration/page_server.h"

#include <algorithm>
#include <cstring>

#include "migration/page_frames.h"
#include "migration/page_scan.h"

namespace godwit::migration {

using memory::kPageSize;
using memory::PageBitmap;
using memory::PageRange;
using std::chrono::microseconds;
using std::chrono::milliseconds;

namespace {

constexpr std::uint64_t kPush = 32;      // pages: a fault waits for no more than a few such pieces
constexpr std::uint64_t kPrefetch = 16;  // pages behind one that was asked for
constexpr std::uint64_t kLook = 4096;    // pages to look for missing ones at a time
constexpr std::size_t kQueue = 128
                               << 10;  // bytes that may wait in the socket before what is asked for
constexpr milliseconds kBurst{20};     // by which a limited push may run ahead

/// The first pages of `missing` in `within`, at most `most`.
std::vector<PageRange> first_of(const PageBitmap& missing, PageRange within, std::uint64_t most) {
  std::vector<PageRange> some;
  for (const PageRange& range : missing.ranges(within)) {
    if (most == 0) break;
    some.push_back({range.first, std::min(range.count, most)});
    most -= some.back().count;
  }
  return some;
}

}  // namespace

PageServer::PageServer(memory::GuestMemory& memory, PageBitmap missing,
                       std::uint64_t bits_per_second)
    : memory_(memory),
      missing_(std::move(missing)),
      bits_per_second_(bits_per_second),
      left_(missing_.count()) {}

Message PageServer::serve(Wire& wire, bool push, int timeout_ms) {
  const auto until = Clock::now() + milliseconds(timeout_ms);
  for (;;) {
    if (wire.frame_waiting()) {
      if (auto message = take(wire)) return std::move(*message);
      continue;
    }
    const auto now = Clock::now();
    if (timeout_ms >= 0 && now >= until) throw ChannelError("the peer did not answer in time");
    int wait_ms = timeout_ms < 0 ? -1 : static_cast<int>((until - now) / milliseconds(1)) + 1;
    if (push && pushes_ && left_ > 0) {
      const bool queue_is_short = wire.unsent() < kQueue;
      if (queue_is_short && now >= next_push_) {
        push_some(wire);
        continue;
      }
      const auto due = queue_is_short ? next_push_ - now : Clock::duration(milliseconds(1));
      const int due_ms = static_cast<int>(std::chrono::ceil<milliseconds>(due).count());
      wait_ms = wait_ms < 0 ? due_ms : std::min(wait_ms, due_ms);
    }
    wire.wait_for(wire.fd(), wait_ms);
  }
}

std::optional<Message> PageServer::take(Wire& wire) {
  const FrameHeader header = wire.receive_header(-1);
  Message message{header.kind, wire.receive_payload(header)};
  if (message.kind == MessageKind::kLeft) {
    if (message.payload.size() != sizeof left_)
      throw ChannelError("the peer's Left makes no sense");
    std::memcpy(&left_, message.payload.data(), sizeof left_);
    report_();
    return std::nullopt;
  }
  if (message.kind != MessageKind::kFetch) return message;
  answer(wire, message.payload);
  return std::nullopt;
}

void PageServer::answer(Wire& wire, std::span<const std::byte> fetch) {
  for (const PageRange& range : decode_ranges(fetch, memory_.pages(), kMaxRangesInFrame)) {
    for (const PageRange& piece : missing_.ranges(range)) asked_ += piece.count;
    // What lies behind is likely to be wanted next.
    const std::uint64_t end = std::min(range.end() + kPrefetch, memory_.pages());
    send(wire, missing_.ranges({range.first, end - range.first}));
    cursor_ = end;
  }
}

void PageServer::push_some(Wire& wire) {
  if (cursor_ >= memory_.pages()) cursor_ = 0;
  const PageRange look{cursor_, std::min(kLook, memory_.pages() - cursor_)};
  const auto some = first_of(missing_, look, kPush);
  cursor_ = some.empty() ? look.end() : some.back().end();
  send(wire, some);
}

void PageServer::send(Wire& wire, std::span<const PageRange> ranges) {
  if (ranges.empty()) return;
  const ScannedPages scanned = scan_pages(memory_, ranges);
  std::uint64_t data = 0;
  for (const PageRange& range : scanned.data) data += range.count;
  if (!scanned.data.empty()) send_pages(wire, memory_, scanned.data);
  if (!scanned.zero.empty()) send_zero(wire, scanned.zero);
  std::uint64_t all = 0;
  for (const PageRange& range : ranges) {
    missing_.reset(range);
    all += range.count;
  }
  left_ -= all;
  sent_ += data;
  zero_ += all - data;
  report_();
  if (bits_per_second_ == 0) return;
  const double seconds =
      static_cast<double>(data * kPageSize * 8) / static_cast<double>(bits_per_second_);
  next_push_ = std::max(next_push_, Clock::now() - kBurst) +
               microseconds(static_cast<std::int64_t>(seconds * 1e6));
}

}  // namespace godwit::migration
