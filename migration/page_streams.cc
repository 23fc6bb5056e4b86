#include "migration/page_streams.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <utility>

namespace godwit::migration {

using memory::PageRange;

namespace {
constexpr std::size_t kFull = 2;                      // jobs: one under way, one to go on with
constexpr std::chrono::milliseconds kHeedEvery{500};  // while nothing is to be sent
}  // namespace

std::size_t stream_of(std::uint64_t page, std::size_t streams) {
  return (page / memory::kHugePagePages) % streams;
}

std::vector<std::vector<PageRange>> spread(std::span<const PageRange> ranges, std::size_t streams) {
  std::vector<std::vector<PageRange>> parts(streams);
  for (PageRange rest : ranges) {
    while (rest.count > 0) {
      const std::uint64_t in_block = memory::kHugePagePages - rest.first % memory::kHugePagePages;
      const PageRange piece{rest.first, std::min(rest.count, in_block)};
      parts[stream_of(piece.first, streams)].push_back(piece);
      rest = {piece.end(), rest.count - piece.count};
    }
  }
  return parts;
}

void StreamNews::fail(const std::string& why) {
  {
    const std::lock_guard lock(mutex_);
    if (complaint_.empty()) complaint_ = "a stream of pages: " + why;
  }
  wire_.interrupt();
}

std::string StreamNews::complaint() const {
  const std::lock_guard lock(mutex_);
  return complaint_;
}

void StreamNews::wait() {
  wire_.wait_for(event_.fd(), -1);
  event_.drain();
}

OutStream::OutStream(Wire wire, const memory::GuestMemory& memory, StreamNews& news,
                     const Compression& compression)
    : wire_(std::move(wire)),
      pages_(wire_, memory, compression),
      news_(news),
      thread_([this] { run(); }) {}

OutStream::~OutStream() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  wire_.interrupt();
  changed_.notify_all();
  thread_.join();
}

bool OutStream::full() const {
  const std::lock_guard lock(mutex_);
  return jobs_.size() >= kFull;
}

void OutStream::write(std::vector<PageRange> ranges) {
  add({MessageKind::kPages, std::move(ranges), 0});
}

void OutStream::write_zero(std::vector<PageRange> ranges) {
  add({MessageKind::kZero, std::move(ranges), 0});
}

void OutStream::mark(std::uint32_t number) { add({MessageKind::kMark, {}, number}); }

void OutStream::add(Job job) {
  {
    const std::lock_guard lock(mutex_);
    jobs_.push_back(std::move(job));
  }
  changed_.notify_all();
}

void OutStream::send(const Job& job) {
  switch (job.kind) {
    case MessageKind::kPages:
      return pages_.send(job.ranges);
    case MessageKind::kZero:
      return send_zero(wire_, job.ranges);
    default:
      return wire_.send({.kind = MessageKind::kMark, .marker = job.mark});
  }
}

void OutStream::run() {
  for (;;) {
    const Job* job = nullptr;
    {
      std::unique_lock lock(mutex_);
      changed_.wait_for(lock, kHeedEvery, [&] { return stop_ || !jobs_.empty(); });
      if (stop_) return;
      if (!jobs_.empty()) job = &jobs_.front();  // stays where it is while others are added
    }
    try {
      if (job == nullptr) {
        wire_.heed_peer();  // its Pings
        continue;
      }
      send(*job);
    } catch (const std::exception& error) {
      // Without anything to send it may be that the destination needs it no more.
      if (job != nullptr) news_.fail(error.what());
      return;
    }
    bytes_sent_ = wire_.bytes_sent();
    {
      const std::lock_guard lock(mutex_);
      jobs_.pop_front();
    }
    news_.tell();
  }
}

InStream::InStream(Wire wire, memory::GuestMemory& memory, StreamNews& news)
    : wire_(std::move(wire)), pages_(wire_, memory), news_(news), thread_([this] { run(); }) {}

InStream::~InStream() {
  stop_ = true;
  wire_.interrupt();
  thread_.join();
}

void InStream::run() {
  try {
    for (;;) {
      const FrameHeader header = wire_.receive_header(-1);
      if (carries_pages(header.kind)) {
        pages_.receive(header);
      } else if (header.kind == MessageKind::kMark) {
        landed_ = header.marker;
        news_.tell();
      } else {
        throw ChannelError(
            fmt::format("the peer sent {} where only pages may come", kind_name(header.kind)));
      }
    }
  } catch (const std::exception& error) {
    if (!stop_) news_.fail(error.what());
  }
}

}  // namespace godwit::migration
