// Source's part once the guest runs at the destination without all of its memory, or is about to.
#include <algorithm>
#include <chrono>

#include "migration/page_scan.h"
#include "migration/page_server.h"
#include "migration/rdma_channel.h"
#include "migration/source.h"

namespace godwit::migration {

using memory::kPageSize;
using memory::PageBitmap;
using memory::PageRange;

// What the guest writes just before it stops it needs first when it goes on: a timer's pages, its
// stacks. These go along, so that it does not wait for each of them.
void Source::watch_hot_pages() {
  machine_.dirty_log().clear({0, machine_.memory().pages()});  // pending_ has them
  wire_->wait_for(wire_->interrupt_fd(), static_cast<int>(kHotWindowMs));
}

// As many as the downtime limit has room for. With them the last few that blocks of 2 MiB lack: a
// huge page of which anything is missing leaves the destination's page tables whole, KVM's too, and
// the guest would stop for each of its other pages.
void Source::send_hot_pages(const PageBitmap& hot, PageBitmap& missing) {
  const auto start = Clock::now();
  const std::uint64_t before = report_.pages.sent;
  RoundFacts facts = wishes();
  facts.unheld_per_ms = rate(sent_ms_ - held_ms_);
  std::uint64_t left = most_hot_pages(facts);
  PageBitmap along(missing.pages());
  const auto take = [&](const std::vector<PageRange>& ranges) {
    for (const PageRange& range : ranges) {
      if (left == 0) return;
      const PageRange piece{range.first, std::min(range.count, left)};
      along.set(piece);
      missing.reset(piece);
      left -= piece.count;
    }
  };
  take(hot.ranges());
  if (left > 0) take(strays(missing));
  send_chunk(along.ranges());
  const std::uint64_t pages = report_.pages.sent - before;
  report_.rounds.push_back({pages, pages * kPageSize, ms_since(start), missing.count()});
}

// In the place of the last round: what the rounds have left, all of it where there were none.
void Source::leave_rest(std::span<const std::byte> state) {
  const auto start = Clock::now();
  memory::GuestMemory& memory = machine_.memory();
  PageBitmap missing = pending_;
  if (report_.rounds.empty()) {
    for (const PageRange& range : memory.populated({0, memory.pages()})) missing.set(range);
    report_.pages.hole = memory.pages() - missing.count();
  } else {
    PageBitmap hot(memory.pages());
    machine_.dirty_log().collect(hot);
    missing |= hot;
    send_hot_pages(hot, missing);
  }
  report_.postcopy.used = true;
  report_.postcopy.missing_bytes = missing.count() * kPageSize;
  if (rdma_ != nullptr) {
    const auto offered = rdma_->offer(missing.ranges());
    if (offered.size() > kMaxOffered) {
      throw ChannelError("guest memory is in too many pieces to go by RDMA in post-copy");
    }
    channel_->send(MessageKind::kOffer, std::as_bytes(std::span(offered)));
  }
  channel_->send(MessageKind::kMissing, std::as_bytes(missing.words()));
  channel_->send(MessageKind::kState, state);
  if (rdma_ != nullptr) rdma_->flush();  // it fails here, or not at all
  server_ = std::make_unique<PageServer>(memory, std::move(missing), options_.max_bandwidth);
  server_->set_pushing(rdma_ == nullptr);
  report_.last_round_ms = ms_since(start);
}

// Until the last page is there, nothing here is given up: only this end has what is missing.
void Source::serve_rest() {
  const auto start = Clock::now();
  wire_->set_patience(Wire::kPatience);  // the guest no longer stands still
  const double before_ms = report_.postcopy.ms;
  {
    const std::lock_guard lock(mutex_);
    progress_.phase = "postcopy";
    progress_.doubt = {};
    progress_.total_bytes = report_.postcopy.missing_bytes;
  }
  const std::uint64_t sent_before = server_->sent();
  const std::uint64_t zero_before = server_->zero();
  const auto take_stock = [&] {
    report_.postcopy.ms = before_ms + ms_since(start);
    report_.postcopy.asked = server_->asked();
  };
  server_->on_progress([this] {
    const std::lock_guard lock(mutex_);
    progress_.remaining_bytes = server_->left() * kPageSize;
  });
  const auto count = [&] {
    take_stock();
    report_.pages.sent += server_->sent() - sent_before;
    report_.pages.zero += server_->zero() - zero_before;
    report_.ram_bytes += (server_->sent() - sent_before) * kPageSize;
  };
  try {
    for (;;) {
      const Message message = server_->serve(*wire_, true, -1);
      if (message.kind == MessageKind::kArrived) break;
      if (message.kind == MessageKind::kRunning) continue;  // it was said before the link was lost
      throw ChannelError(std::string("the peer sent ") + kind_name(message.kind) + " out of turn");
    }
  } catch (...) {
    count();
    throw;
  }
  count();
  try {
    wire_->send({.kind = MessageKind::kArrived});
  } catch (const ChannelError&) {
    // It has everything, and finds out by itself that nobody is left here.
  }
}

Source::End Source::resume() {
  const memory::GuestMemory::Hold hold(machine_.memory());
  std::exception_ptr error;
  try {
    if (!wire_) reconnect();  // else ask() has
    serve_rest();
  } catch (...) {
    error = std::current_exception();
  }
  return finish(error);
}

}  // namespace godwit::migration
