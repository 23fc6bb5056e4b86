// Pages by one-sided RDMA WRITE, from guest RAM into guest RAM. Only extents of RAM that hold data
// are registered, at both ends at once and ahead of the data, so that registering and sending
// overlap. Control and its answers travel on the wire.
//
// Pages take turns on the queue pairs by blocks of RAM, always the same block by the same one, so
// that a page that is sent again cannot be overtaken by itself.
#pragma once

#include <deque>
#include <memory>
#include <vector>

#include "migration/channel.h"
#include "migration/page_streams.h"
#include "migration/pinned_memory.h"
#include "migration/rdma_endpoint.h"
#include "migration/rdma_extents.h"
#include "migration/rdma_regions.h"
#include "migration/tcp_channel.h"
#include "migration/wire.h"
#include "vmm/memory/guest_memory.h"
#include "vmm/sys/poll_set.h"

namespace godwit::migration {

class RdmaChannel : public Channel {
 public:
  using Endpoints = std::vector<std::unique_ptr<RdmaEndpoint>>;

  /// `endpoints` are connected, to the peer's in the same order, by port, and have been probed by
  /// the source; of `pinned` memory nothing has to be registered at this end. `wire`, `memory` and
  /// `pinned` must outlive it.
  RdmaChannel(Wire& wire, memory::GuestMemory& memory, Role role, Endpoints endpoints,
              const PinnedMemory* pinned = nullptr);

  /// Destination, before the peer asks for anything: all that it may ask for. Throws RdmaError.
  void register_all_of_ram();
  /// Destination, before anything has come: only these ports, as numbered by the source, are used.
  /// Throws ChannelError for one without a connection.
  void keep_ports(std::span<const unsigned> ports);

  /// Source: these pages, ascending, are likely to be written soon: begins to register them, at
  /// both ends.
  void prepare(std::span<const memory::PageRange> ranges);
  /// Source, once no page is written any more: where the peer may READ these pages, which it must
  /// be allowed to by the endpoint.
  std::vector<OfferedExtent> offer(std::span<const memory::PageRange> ranges);
  /// Destination, once no page is written any more: the first connection, for READs. The peer
  /// cannot reach guest RAM any more; all that is left to this object is to go.
  std::unique_ptr<RdmaEndpoint> take_endpoint();

  std::string_view name() const override { return "rdma"; }
  void write(std::span<const memory::PageRange> ranges) override;
  /// The same as write(): punching holes below a memory region would part it from guest RAM.
  void write_zero(std::span<const memory::PageRange> ranges) override { write(ranges); }
  void flush() override;
  void send(MessageKind kind, std::span<const std::byte> payload) override;
  Message receive(int timeout_ms) override;
  void seal() override;
  void release() override;
  void interrupt() override { wire_.interrupt(); }
  std::uint64_t bytes_sent() const override { return wire_.bytes_sent() + written_; }

 private:
  /// A queue pair and what waits for it.
  struct Lane {
    std::unique_ptr<RdmaEndpoint> endpoint;
    std::size_t port = 0;                 // index into an RdmaExtent's `remote`
    std::size_t device = 0;               // and into its `regions`
    std::deque<memory::PageRange> queue;  // source: pages to be posted, in order
    std::uint64_t outstanding = 0;        // send work requests not known to be complete
    std::uint32_t markers = 0;            // received
    bool full() const { return outstanding >= RdmaEndpoint::kSendDepth; }
  };
  struct Frame {
    FrameHeader header;
    std::vector<std::byte> payload;
  };

  void request(std::span<const memory::PageRange> regions);
  void request_more();
  Frame next_frame(int timeout_ms);
  void number_ports();
  void have_registered(std::span<const memory::PageRange> ranges);
  void register_for_peer(std::span<const std::byte> payload);
  void take_answers();
  void take_registered();
  std::uint32_t local_key(const RdmaExtent& extent, std::size_t device) const;
  bool usable(const RdmaExtent& extent) const;
  bool post_some(Lane& lane);
  bool step();
  bool drained() const;
  void wait_for_news();
  void pump(std::uint64_t pages_left, bool drain);
  void post_markers();
  bool await_markers(std::uint32_t count);
  bool begun_anew();
  void arm();

  Wire& wire_;
  memory::GuestMemory& memory_;
  const Role role_;
  const PinnedMemory* const pinned_;
  // Before the extents: their regions belong to its devices and must go first.
  std::vector<Lane> lanes_;
  RdmaDevices devices_;
  std::size_t ports_ = 0;
  RdmaRegistrar registrar_;
  sys::PollSet news_;             // completions, registrations
  sys::PollSet news_or_answers_;  // and the wire
  RdmaExtents extents_;
  std::deque<memory::PageRange>
      to_request_;                     // source: regions that the peer has not been asked for
  std::deque<RdmaExtent*> requested_;  // source: awaiting the peer's answer, in order
  std::uint64_t most_in_request_ = kFirstRegion;  // pages; more and more
  std::uint64_t queued_pages_ = 0;                // of all lanes
  std::uint32_t markers_ = 1;  // source: sent, by each lane; the first is its probe
  bool unmarked_ = false;      // source: pages were posted after the last marker
  bool sealed_ = false;
  std::uint64_t written_ = 0;  // bytes
  std::deque<Frame> ahead_;    // destination: what came behind a message that waits for its marker
};

}  // namespace godwit::migration
