// Pages over the control connection itself: sendmsg straight out of guest RAM, readv straight into
// it.
#pragma once

#include <vector>

#include "migration/channel.h"
#include "migration/wire.h"
#include "vmm/memory/guest_memory.h"

namespace godwit::migration {

/// Which end of a move this is: only the destination takes pages.
enum class Role { kSource, kDestination };

class TcpChannel : public Channel {
 public:
  /// `wire` and `memory` must outlive it.
  TcpChannel(Wire& wire, memory::GuestMemory& memory, Role role)
      : wire_(wire), memory_(memory), role_(role) {}

  std::string_view name() const override { return "tcp"; }
  void write(std::span<const memory::PageRange> ranges) override;
  void write_zero(std::span<const memory::PageRange> ranges) override;
  void flush() override;
  void send(MessageKind kind, std::span<const std::byte> payload) override;
  Message receive(int timeout_ms) override;
  void interrupt() override { wire_.interrupt(); }
  std::uint64_t bytes_sent() const override { return wire_.bytes_sent(); }

 private:
  void receive_pages(const FrameHeader& header);

  Wire& wire_;
  memory::GuestMemory& memory_;
  const Role role_;
};

/// The first part of a Pages frame's payload: the ranges whose bytes follow, checked against the
/// frame's length and RAM of `pages` pages.
std::vector<memory::PageRange> receive_page_table(Wire& wire, const FrameHeader& header,
                                                  std::uint64_t pages);
/// Sends Zero frames; shared by the transports.
void send_zero(Wire& wire, std::span<const memory::PageRange> ranges);
/// Takes one: the pages become holes.
void receive_zero(Wire& wire, const FrameHeader& header, memory::GuestMemory& memory);

}  // namespace godwit::migration
