// What is left of a move once its guest is at the destination and part of its memory is not: a
// thread that takes pages, asks for those that somebody waits for, and outlives the connection.
// Owned by Destination, then by whoever has the guest. Any thread may call; destroyed while nobody
// waits for a page, that is once done(), or after the machine was paused.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "migration/missing_pages.h"
#include "migration/protocol.h"
#include "migration/rdma_fetcher.h"
#include "migration/wire.h"
#include "migration/witness.h"
#include "vmm/memory/guest_memory.h"
#include "vmm/sys/event_fd.h"
#include "vmm/sys/unique_fd.h"

namespace godwit::migration {

class PostCopy {
 public:
  struct Status {
    bool done = false;   // all of the guest's memory is here
    bool lost = false;   // the link: the guest waits as soon as it needs a missing page
    std::string reason;  // why lost
    std::uint64_t missing_bytes = 0;
    std::uint64_t faults = 0;  // that had to wait for the source
  };

  /// Pages that the source's RAM is READ for by RDMA.
  struct Offer {
    std::unique_ptr<RdmaEndpoint> endpoint;  // null: they come over the wire
    std::vector<OfferedExtent> extents;
    std::uint64_t bits_per_second = 0;  // 0: no limit
  };

  /// Takes over what goes on over `wire`. `memory` must outlive it. Throws what MissingPages
  /// throws.
  PostCopy(Wire wire, memory::GuestMemory& memory, memory::PageBitmap missing, Comeback comeback,
           Offer offer);
  ~PostCopy();
  PostCopy(const PostCopy&) = delete;
  PostCopy& operator=(const PostCopy&) = delete;

  /// Tells the source.
  void say(MessageKind kind, std::string text = {});
  /// Blocks until the source commits; throws ChannelError if that is not to be.
  void await_commit();
  /// Makes await_commit() throw, unless the source has committed.
  void interrupt();
  Status status() const;
  /// An empty string, or why nothing may be done with the guest that needs all of its memory.
  std::string complaint() const;

 private:
  void follow();
  void serve();
  bool take_news();
  bool fetch();
  void ask(const std::vector<memory::PageRange>& wanted);
  void take_frame();
  void take_pages(const FrameHeader& header);
  void take_zero(const FrameHeader& header);
  void say_arrived();
  bool lose(const std::string& why);
  bool await_source();
  bool take_source(sys::UniqueFd connection);

  mutable std::mutex mutex_;  // guards those up to wire_, and its being there
  std::condition_variable changed_;
  Status status_;
  std::deque<std::pair<MessageKind, std::string>> outbox_;
  bool committed_ = false;
  std::string failed_;                 // why it never will be
  std::atomic<bool> gave_up_ = false;  // so the source has said
  std::unique_ptr<Wire> wire_;

  MissingPages pages_;
  const std::uint64_t ram_pages_;
  std::unique_ptr<RdmaFetcher> fetcher_;  // until the link is lost: then the rest goes by the wire
  Wire::Clock::time_point last_left_;
  Comeback comeback_;
  sys::EventFd wake_;  // something in the outbox, or stop_
  std::atomic<bool> stop_ = false;
  bool told_running_ = false;  // Running went out, or was lost with its link: Arrived comes later
  bool confirmed_ = false;     // the source knows that all has arrived
  std::thread thread_;
};

}  // namespace godwit::migration
