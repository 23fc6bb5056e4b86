// The destination's end of a move: takes one connection and gives back a machine that runs, or
// throws and leaves nothing. Trusts nothing that the peer says. One thread, but for interrupt().
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "migration/channel.h"
#include "migration/postcopy_destination.h"
#include "migration/protocol.h"
#include "migration/wire.h"
#include "vmm/machine.h"

namespace godwit::migration {

class PreFault;
class RdmaChannel;

struct DestinationOptions {
  /// Called with what the guest is to be before anything is built: may change its name, and throws
  /// to refuse it (what() is told to the peer).
  std::function<void(vmm::MachineConfig&)> admit = [](vmm::MachineConfig&) {};
  vmm::ConsoleSink console;
  /// A memfd that is the guest's RAM already, for a source that hands it over: then the transport
  /// has to be "shared". Else none.
  sys::UniqueFd ram = {};
  /// The listening socket that `connection` came by, where a source comes back to that has lost it
  /// in post-copy; or none, then it cannot.
  sys::UniqueFd listener = {};
  /// A source has to use TLS; null: it must not.
  std::shared_ptr<const tls::Context> tls = {};
  /// Called once RAM is complete and before the state is restored (which writes kvmclock's pages):
  /// both ends stand still. Throws to refuse the guest.
  std::function<void(vmm::Machine&)> inspect = [](vmm::Machine&) {};
};

class Destination {
 public:
  /// `connection`: an accepted TCP connection.
  Destination(sys::UniqueFd connection, DestinationOptions options);

  /// Loads the host's RDMA drivers, if it has RDMA devices: the first look at them may take a
  /// second (it opens every provider's library), which the move then need not wait for. From any
  /// thread.
  static void warm_up() noexcept;

  /// Blocks until the guest runs here. Throws ChannelError when the peer gives up, goes, or breaks
  /// the protocol, and what Machine throws when the guest cannot be here; the peer has been told
  /// then.
  std::unique_ptr<vmm::Machine> run();

  /// After run(): what is left of the move, if memory of the guest is still to come; else null.
  std::unique_ptr<PostCopy> take_post_copy() { return std::move(post_copy_); }

  /// Makes run() throw, unless the guest runs here already. From any thread.
  void interrupt();

  std::string_view transport() const { return transport_; }

 private:
  /// What comes once the guest stands still at the source.
  struct Handover {
    std::vector<std::byte> digests;             // of RAM, where it is to be verified; else empty
    std::vector<OfferedExtent> offer;           // post-copy by RDMA: where the source's RAM lies
    std::optional<memory::PageBitmap> missing;  // post-copy
    std::vector<std::byte> state;
  };

  void prepare(bool as_wanted);
  void begin_anew(const Message& begin);
  Handover receive_handover(PreFault& pre_fault);
  void take_guest();
  void take_guest_without_its_memory(Handover handover);
  void refuse(const char* why) noexcept;
  Running running_since(std::chrono::steady_clock::time_point start) const;

  Wire wire_;
  DestinationOptions options_;
  std::unique_ptr<vmm::Machine> machine_;
  std::mutex mutex_;                     // guards post_copy_'s being there, which has the wire then
  std::unique_ptr<PostCopy> post_copy_;  // after machine_: it goes first
  std::string token_;                    // of a source that may go over to post-copy; else empty
  std::optional<memory::GuestMemory::Hold> hold_;  // of machine_'s; outlives channel_'s regions
  std::unique_ptr<Channel> channel_;
  RdmaChannel* rdma_ = nullptr;  // channel_, where it goes by that
  std::uint64_t max_bandwidth_ = 0;
  std::string transport_;
  double cpu_before_ms_ = 0;
  bool resuming_ = false;
};

}  // namespace godwit::migration
