// The source's end of post-copy by TCP: the guest runs at the destination, and the pages that it
// has not got are here, in RAM that nobody writes any more. Sends what the destination asks for at
// once, and the rest meanwhile. Owned by a Source; one thread.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <optional>

#include "migration/protocol.h"
#include "migration/wire.h"
#include "vmm/memory/guest_memory.h"
#include "vmm/memory/page_bitmap.h"

namespace godwit::migration {

class PageServer {
 public:
  /// `missing`: what the destination does not have. `bits_per_second`: 0: no limit; what is asked
  /// for is not held back, but counts. `memory` must outlive it.
  PageServer(memory::GuestMemory& memory, memory::PageBitmap missing,
             std::uint64_t bits_per_second);

  /// Sends what is asked for, and with `push` the rest, until another message than Fetch or Left
  /// comes, and returns it. Throws ChannelError, also after `timeout_ms` (-1: never).
  Message serve(Wire& wire, bool push, int timeout_ms);
  /// After a lost link: what the destination has not got after all.
  void set_missing(memory::PageBitmap missing) {
    missing_ = std::move(missing);
    left_ = missing_.count();
  }
  /// Whether to send by itself: not where the destination takes its pages by RDMA.
  void set_pushing(bool on) { pushes_ = on; }

  std::uint64_t left() const { return left_; }    // pages that the destination has not got
  std::uint64_t asked() const { return asked_; }  // pages, as far as they were still missing
  std::uint64_t sent() const { return sent_; }    // pages that held data
  std::uint64_t zero() const { return zero_; }    // pages that were zero
  /// Called as pages leave; for progress.
  void on_progress(std::function<void()> report) { report_ = std::move(report); }

 private:
  using Clock = std::chrono::steady_clock;
  std::optional<Message> take(Wire& wire);
  void answer(Wire& wire, std::span<const std::byte> fetch);
  void push_some(Wire& wire);
  void send(Wire& wire, std::span<const memory::PageRange> ranges);

  memory::GuestMemory& memory_;
  memory::PageBitmap missing_;
  const std::uint64_t bits_per_second_;
  bool pushes_ = true;
  Clock::time_point next_push_ = Clock::now();
  std::uint64_t cursor_ = 0;  // where to push on: behind the last page that was asked for
  std::uint64_t left_;
  std::uint64_t asked_ = 0;
  std::uint64_t sent_ = 0;
  std::uint64_t zero_ = 0;
  std::function<void()> report_ = [] {};
};

}  // namespace godwit::migration
