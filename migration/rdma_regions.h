// What to register of guest RAM so that pages can be written by RDMA, and the threads that do so
// ahead of the data: to register cold memory is slower than to send it, as every page has to be
// found and pinned.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <mutex>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "migration/rdma_port.h"
#include "migration/wire.h"
#include "vmm/memory/guest_memory.h"
#include "vmm/sys/event_fd.h"

namespace godwit::migration {

/// No region crosses a multiple of this, in pages of RAM: rxe's cap, and enough for any NIC.
constexpr std::uint64_t kMaxRegion = (1ull << 30) / memory::kPageSize;

/// The first ones are small, so that the first data can go soon.
constexpr std::uint64_t kFirstRegion = (2ull << 20) / memory::kPageSize;

/// Regions that cover `ranges` (ascending) of a RAM of `pages` pages: blocks of 2 MiB as a whole
/// where a quarter of one is wanted, as the destination can back them by one page each, and
/// elsewhere the ranges with small gaps between them. Each may be twice as large as the one before,
/// as far as registering and sending still overlap.
std::vector<memory::PageRange> plan_regions(std::span<const memory::PageRange> ranges,
                                            std::uint64_t pages);

class RdmaRegistrar {
 public:
  struct Registered {
    memory::PageRange range;
    std::vector<MemoryRegion> regions;  // one a device
  };

  /// `about_to_be_written`: nothing of what a range holds matters (GuestMemory::expect_writes).
  /// `memory` must outlive it.
  RdmaRegistrar(memory::GuestMemory& memory, RdmaDevices devices, PeerMay peer_may,
                bool about_to_be_written);
  /// What is under way ends first, the rest never begins.
  ~RdmaRegistrar();
  RdmaRegistrar(const RdmaRegistrar&) = delete;
  RdmaRegistrar& operator=(const RdmaRegistrar&) = delete;

  /// Begins soon, in the order of the calls; several at a time.
  void add(const memory::PageRange& range);
  /// Those that are done, in no order, each once. Throws RdmaError when one has failed.
  std::vector<Registered> take();
  /// Readable when take() has something.
  int event_fd() const { return event_.fd(); }

 private:
  void work();
  std::vector<MemoryRegion> registered(const memory::PageRange& range) const;

  memory::GuestMemory& memory_;
  const RdmaDevices devices_;
  const PeerMay peer_may_;
  const bool about_to_be_written_;
  sys::EventFd event_;
  std::mutex mutex_;  // guards all below but threads_
  std::condition_variable changed_;
  std::deque<memory::PageRange> waiting_;
  std::vector<Registered> done_;
  std::string failure_;
  bool stop_ = false;
  std::vector<std::thread> threads_;  // begun by the first add()
};

/// Blocks until all of `ranges` are registered. Throws RdmaError, and what the wire throws.
std::vector<RdmaRegistrar::Registered> register_all(RdmaRegistrar& registrar,
                                                    std::span<const memory::PageRange> ranges,
                                                    Wire& wire);

}  // namespace godwit::migration
