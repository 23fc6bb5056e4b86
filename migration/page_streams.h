// The connections of a TcpChannel beside its Wire: they carry pages, and marks that say how far the
// pages have come. A thread each. Owned and called by the channel's thread. When one fails, the
// channel's Wire is interrupted, and complaint() tells why.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "migration/page_frames.h"
#include "migration/wire.h"
#include "vmm/memory/guest_memory.h"
#include "vmm/sys/event_fd.h"

namespace godwit::migration {

/// Which of `streams` connections, the Wire counted as the first, a page always goes by: so two
/// writes of it never overtake each other. By blocks of 2 MiB: the destination populates RAM by
/// these.
std::size_t stream_of(std::uint64_t page, std::size_t streams);

/// `ranges` cut up by stream_of().
std::vector<std::vector<memory::PageRange>> spread(std::span<const memory::PageRange> ranges,
                                                   std::size_t streams);

/// What the threads of all streams share: the first failure, and news for who waits.
class StreamNews {
 public:
  /// `wire` must outlive it.
  explicit StreamNews(Wire& wire) : wire_(wire) {}

  void tell() const { event_.signal(); }
  void fail(const std::string& why);
  /// Why a stream has failed; empty if none has.
  std::string complaint() const;
  /// Blocks until there is news, or throws whatever the wire does meanwhile.
  void wait();

 private:
  Wire& wire_;
  sys::EventFd event_;
  mutable std::mutex mutex_;
  std::string complaint_;
};

/// The source's end of one: a queue of ranges, and the thread that sends them.
class OutStream {
 public:
  OutStream(Wire wire, const memory::GuestMemory& memory, StreamNews& news,
            const Compression& compression);
  ~OutStream();
  OutStream(const OutStream&) = delete;
  OutStream& operator=(const OutStream&) = delete;

  /// As much waits as should: await news, or go on all the same.
  bool full() const;
  /// Pages of RAM, read when their turn comes.
  void write(std::vector<memory::PageRange> ranges);
  void write_zero(std::vector<memory::PageRange> ranges);
  /// Tells the peer, after all that was written before.
  void mark(std::uint32_t number);
  void set_patience(std::chrono::milliseconds patience) { wire_.set_patience(patience); }
  std::uint64_t bytes_sent() const { return bytes_sent_; }

 private:
  struct Job {
    MessageKind kind{};  // Pages, Zero or Mark
    std::vector<memory::PageRange> ranges;
    std::uint32_t mark = 0;
  };
  void run();
  void add(Job job);
  void send(const Job& job);

  Wire wire_;
  PageSender pages_;
  StreamNews& news_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Job> jobs_;  // the first is being sent
  bool stop_ = false;
  std::atomic<std::uint64_t> bytes_sent_ = 0;
  std::thread thread_;
};

/// The destination's end of one: a thread that takes pages into RAM.
class InStream {
 public:
  InStream(Wire wire, memory::GuestMemory& memory, StreamNews& news);
  /// After this nothing more lands.
  ~InStream();
  InStream(const InStream&) = delete;
  InStream& operator=(const InStream&) = delete;

  /// The last mark behind whose pages all have landed.
  std::uint32_t landed() const { return landed_; }

 private:
  void run();

  Wire wire_;
  PageReceiver pages_;
  StreamNews& news_;
  std::atomic<std::uint32_t> landed_ = 0;
  std::atomic<bool> stop_ = false;
  std::thread thread_;
};

}  // namespace godwit::migration
