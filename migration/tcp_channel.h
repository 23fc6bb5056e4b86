// Pages over TCP: by the control connection itself, and by as many more as there are. Over one
// connection the order of its bytes is the order of pages and messages; over several a message
// names a mark, which follows the pages on each of them.
#pragma once

#include <memory>
#include <vector>

#include "migration/channel.h"
#include "migration/page_frames.h"
#include "migration/page_streams.h"
#include "migration/wire.h"
#include "vmm/memory/guest_memory.h"

namespace godwit::migration {

/// Which end of a move this is: only the destination takes pages.
enum class Role { kSource, kDestination };

class TcpChannel : public Channel {
 public:
  /// `wire` and `memory` must outlive it. `streams`: further connections to the same peer, which
  /// has as many.
  /// Source: compresses pages where that is faster.
  TcpChannel(Wire& wire, memory::GuestMemory& memory, Role role, std::vector<Wire> streams = {},
             const Compression& compression = {});

  std::string_view name() const override { return "tcp"; }
  void write(std::span<const memory::PageRange> ranges) override;
  void write_zero(std::span<const memory::PageRange> ranges) override;
  void flush() override;
  void send(MessageKind kind, std::span<const std::byte> payload) override;
  Message receive(int timeout_ms) override;
  void seal() override;
  void interrupt() override { wire_.interrupt(); }
  std::uint64_t bytes_sent() const override;

 private:
  template <typename Work>
  auto guarded(Work work);
  std::uint32_t mark();
  void await_mark(std::uint32_t number);
  void take_from_source(const FrameHeader& header);

  Wire& wire_;
  const Role role_;
  PageSender sender_;      // at the source
  PageReceiver receiver_;  // at the destination
  StreamNews news_;
  std::vector<std::unique_ptr<OutStream>> out_;  // at the source
  std::vector<std::unique_ptr<InStream>> in_;    // at the destination
  std::chrono::milliseconds patience_{0};        // of out_
  std::uint32_t marks_ = 0;                      // that out_ have sent
  bool unmarked_ = false;                        // pages went to out_ since the last
  bool sealed_ = false;
};

}  // namespace godwit::migration
