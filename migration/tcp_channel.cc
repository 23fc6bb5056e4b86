#include "migration/tcp_channel.h"

#include <fmt/format.h>

#include <utility>

#include "migration/page_frames.h"

namespace godwit::migration {

using memory::PageRange;

namespace {
constexpr int kSyncedTimeoutMs = 30'000;  // to take what was in the socket buffers
}  // namespace

TcpChannel::TcpChannel(Wire& wire, memory::GuestMemory& memory, Role role,
                       std::vector<Wire> streams, const Compression& compression)
    : wire_(wire),
      role_(role),
      sender_(wire, memory, compression),
      receiver_(wire, memory),
      news_(wire) {
  for (Wire& stream : streams) {
    if (role == Role::kSource) {
      out_.push_back(std::make_unique<OutStream>(std::move(stream), memory, news_, compression));
    } else {
      in_.push_back(std::make_unique<InStream>(std::move(stream), memory, news_));
    }
  }
}

/// Where a stream has failed, the wire says "interrupted": this says why.
template <typename Work>
auto TcpChannel::guarded(Work work) {
  try {
    return work();
  } catch (const ChannelError&) {
    const std::string why = news_.complaint();
    if (why.empty()) throw;
    wire_.heed_peer();  // what the peer said last tells more
    throw ChannelError(why);
  }
}

void TcpChannel::write(std::span<const PageRange> ranges) {
  if (out_.empty()) return sender_.send(ranges);
  guarded([&] {
    if (patience_ != wire_.patience()) {
      patience_ = wire_.patience();
      for (const auto& stream : out_) stream->set_patience(patience_);
    }
    auto parts = spread(ranges, out_.size() + 1);
    for (std::size_t i = 0; i < out_.size(); ++i) {
      if (parts[i + 1].empty()) continue;
      while (out_[i]->full()) news_.wait();
      out_[i]->write(std::move(parts[i + 1]));
      unmarked_ = true;
    }
    sender_.send(parts[0]);
  });
}

void TcpChannel::write_zero(std::span<const PageRange> ranges) {
  if (out_.empty()) return send_zero(wire_, ranges);
  guarded([&] {
    auto parts = spread(ranges, out_.size() + 1);
    for (std::size_t i = 0; i < out_.size(); ++i) {
      if (parts[i + 1].empty()) continue;
      out_[i]->write_zero(std::move(parts[i + 1]));
      unmarked_ = true;
    }
    send_zero(wire_, parts[0]);
  });
}

/// The mark that a message sent now has to wait for.
std::uint32_t TcpChannel::mark() {
  if (unmarked_) {
    ++marks_;
    for (const auto& stream : out_) stream->mark(marks_);
    unmarked_ = false;
  }
  return marks_;
}

// Megabytes of pages may wait in both ends' socket buffers, which only refer to those of guest RAM
// that were sent by reference.
void TcpChannel::flush() {
  guarded([&] {
    wire_.send({.kind = MessageKind::kSync, .marker = mark()}, {});
    const FrameHeader header = wire_.receive_header(kSyncedTimeoutMs);
    const auto payload = wire_.receive_payload(header);
    if (header.kind == MessageKind::kRefuse) {
      throw ChannelError("the destination refused: " + decode_reason(payload));
    }
    if (header.kind != MessageKind::kSynced) {
      throw ChannelError(fmt::format("the peer sent {}, Synced was due", kind_name(header.kind)));
    }
  });
}

void TcpChannel::send(MessageKind kind, std::span<const std::byte> payload) {
  guarded([&] { wire_.send({.kind = kind, .marker = mark()}, payload); });
}

void TcpChannel::await_mark(std::uint32_t number) {
  for (const auto& stream : in_) {
    while (stream->landed() < number) news_.wait();
  }
}

void TcpChannel::take_from_source(const FrameHeader& header) {
  if (header.kind == MessageKind::kSync) {
    await_mark(header.marker);
    wire_.send({.kind = MessageKind::kSynced}, {});
  } else if (sealed_) {
    throw ChannelError("the peer sent pages after the state");
  } else {
    receiver_.receive(header);
  }
}

Message TcpChannel::receive(int timeout_ms) {
  return guarded([&] {
    for (;;) {
      const FrameHeader header = wire_.receive_header(timeout_ms);
      const bool pages = carries_pages(header.kind);
      if (pages && role_ == Role::kSource) {
        throw ChannelError("the destination sent guest pages: only the source may");
      }
      if (role_ == Role::kDestination && (pages || header.kind == MessageKind::kSync)) {
        take_from_source(header);
        continue;
      }
      Message message{header.kind, wire_.receive_payload(header)};
      await_mark(header.marker);
      return message;
    }
  });
}

void TcpChannel::seal() {
  in_.clear();
  sealed_ = true;
}

std::uint64_t TcpChannel::bytes_sent() const {
  std::uint64_t bytes = wire_.bytes_sent();
  for (const auto& stream : out_) bytes += stream->bytes_sent();
  return bytes;
}

}  // namespace godwit::migration
