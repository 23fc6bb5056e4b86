// Pages by one-sided RDMA WRITE, from guest RAM into guest RAM. Only extents of RAM that hold data
// are registered: the source asks for the destination's in batches and writes into the first while
// the next are being registered, so that the two overlap. Control and its answers travel on the
// wire.
#pragma once

#include <deque>
#include <map>
#include <memory>
#include <vector>

#include "migration/channel.h"
#include "migration/tcp_channel.h"
#include "migration/verbs.h"
#include "migration/wire.h"
#include "vmm/memory/guest_memory.h"

namespace godwit::migration {

class RdmaChannel : public Channel {
 public:
  /// `endpoint` is connected. `wire` and `memory` must outlive it.
  RdmaChannel(Wire& wire, memory::GuestMemory& memory, Role role,
              std::unique_ptr<RdmaEndpoint> endpoint);

  /// Source: proves that the peer's queue pair answers; throws ChannelError if not. Before any
  /// write().
  void probe();

  /// Source, once no page is written any more: where the peer may READ these pages, which it must
  /// be allowed to by the endpoint.
  std::vector<OfferedExtent> offer(std::span<const memory::PageRange> ranges);
  /// Destination, once no page is written any more: the connection, for READs. The peer cannot
  /// reach guest RAM any more; all that is left to this object is to go.
  std::unique_ptr<RdmaEndpoint> take_endpoint();

  std::string_view name() const override { return "rdma"; }
  void write(std::span<const memory::PageRange> ranges) override;
  /// The same as write(): punching holes below a memory region would part it from guest RAM.
  void write_zero(std::span<const memory::PageRange> ranges) override { write(ranges); }
  void flush() override;
  void send(MessageKind kind, std::span<const std::byte> payload) override;
  Message receive(int timeout_ms) override;
  void seal() override;
  void interrupt() override { wire_.interrupt(); }
  std::uint64_t bytes_sent() const override { return wire_.bytes_sent() + written_; }

 private:
  struct Extent {
    memory::PageRange range;
    MemoryRegion region;
    RemoteExtent remote;
    bool ready = false;  // `remote` is known
  };
  using Extents = std::map<std::uint64_t, Extent>;  // by first page

  std::vector<memory::PageRange> not_registered(std::span<const memory::PageRange> ranges) const;
  void request_extents(std::span<const memory::PageRange> ranges);
  struct Frame {
    FrameHeader header;
    std::vector<std::byte> payload;
  };

  Frame next_frame(int timeout_ms);
  void register_for_peer(std::span<const std::byte> payload);
  void take_registered();
  const Extent* extent_of(std::uint64_t page) const;
  bool post_some();
  void pump(std::uint64_t pages_left, bool drain);
  void post_marker();
  bool await_markers(std::uint32_t count);
  bool begun_anew();

  Wire& wire_;
  memory::GuestMemory& memory_;
  const Role role_;
  // Before the extents: their regions belong to its protection domain and must go first.
  std::unique_ptr<RdmaEndpoint> endpoint_;
  Extents extents_;
  std::deque<Extent*> requested_;        // source: awaiting their rkeys, in order
  std::deque<memory::PageRange> queue_;  // source: pages to be posted, in order
  std::uint64_t queued_pages_ = 0;
  std::uint64_t outstanding_ = 0;  // send work requests not known to be complete
  std::uint32_t markers_ = 0;      // sent or received
  bool unmarked_ = false;          // source: pages were posted after the last marker
  bool sealed_ = false;
  std::uint64_t written_ = 0;  // bytes
  std::deque<Frame> ahead_;    // destination: what came behind a message that waits for its marker
};

}  // namespace godwit::migration
