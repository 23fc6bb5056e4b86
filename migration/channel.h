// The transport of a move. It carries guest *pages*, not bytes: both ends have the same RAM layout,
// so a range of pages names its source and its destination. Bound to one GuestMemory; used by one
// thread, but for interrupt(). Every method throws ChannelError when the peer is gone, the link is
// cut, the peer breaks the protocol, or interrupt() was called.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <stdexcept>
#include <string_view>
#include <vector>

#include "vmm/memory/page_range.h"

namespace godwit::migration {

class ChannelError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// The peer has said that it does not go on: Refuse or Abort.
class PeerGaveUp : public ChannelError {
 public:
  using ChannelError::ChannelError;
};

/// A deadline has come (Wire::set_deadline, SourceOptions::timeout_ms).
class TimedOut : public ChannelError {
 public:
  using ChannelError::ChannelError;
};

/// The transport has failed, and the connection that carries messages has not, as far as is known:
/// the move can go on by another.
class TransportLost : public ChannelError {
 public:
  using ChannelError::ChannelError;
};

enum class MessageKind : std::uint32_t;  // protocol.h

struct Message {
  MessageKind kind{};
  std::vector<std::byte> payload;
};

class Channel {
 public:
  virtual ~Channel() = default;

  virtual std::string_view name() const = 0;  // "tcp", "rdma", "loopback"

  /// Sends pages out of guest RAM into the peer's; may return before they land.
  virtual void write(std::span<const memory::PageRange> ranges) = 0;
  /// Tells the peer that these pages are zero now; cheap. For pages that it has as something else.
  virtual void write_zero(std::span<const memory::PageRange> ranges) = 0;
  /// Source: returns once every page written so far has left guest RAM (so its bytes no longer
  /// matter here) and none waits on the way, so that a message sent next is not held up by them.
  virtual void flush() = 0;
  /// A message is received only after every page written before it is in the peer's guest RAM.
  virtual void send(MessageKind kind, std::span<const std::byte> payload) = 0;
  /// Blocks for the next message, at most `timeout_ms` (-1: for ever); page frames are consumed on
  /// the way.
  virtual Message receive(int timeout_ms) = 0;

  /// Destination, after the last page: from now on the peer cannot reach guest RAM through this
  /// channel, which goes on carrying messages. While nothing is received.
  virtual void seal() {}
  /// After seal(): gives back what it had of guest RAM, which may take a while. Messages go on
  /// meanwhile in another thread.
  virtual void release() {}

  /// Makes the blocked and all later calls throw. The only method safe from other threads.
  virtual void interrupt() = 0;

  virtual std::uint64_t bytes_sent() const = 0;  // on the wire, as far as this end can count
};

}  // namespace godwit::migration
