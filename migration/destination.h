// The destination's end of a move: takes one connection and gives back a machine that runs, or
// throws and leaves nothing. Trusts nothing that the peer says. One thread, but for interrupt().
#pragma once

#include <chrono>
#include <functional>
#include <future>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <vector>

#include "migration/channel.h"
#include "migration/postcopy_destination.h"
#include "migration/protocol.h"
#include "migration/wire.h"
#include "migration/witness.h"
#include "vmm/machine.h"

namespace godwit::migration {

class PreFault;
class RdmaChannel;

struct DestinationOptions {
  /// Called with what the guest is to be before anything is built: may change its name, and throws
  /// to refuse it (what() is told to the peer). `dry_run`: it will not come.
  std::function<void(vmm::MachineConfig&, bool dry_run)> admit = [](vmm::MachineConfig&, bool) {};
  vmm::ConsoleSink console;
  /// A memfd that is the guest's RAM already, for a source that hands it over: then the transport
  /// has to be "shared". Else none.
  sys::UniqueFd ram = {};
  /// The listening socket that `connection` came by, where a source comes back to that has lost it;
  /// or none, then it cannot.
  sys::UniqueFd listener = {};
  /// A source has to use TLS; null: it must not.
  std::shared_ptr<const tls::Context> tls = {};
  /// All of RAM is registered for RDMA before the move begins, rather than what comes, as it comes.
  bool pin = false;
  /// Called once RAM is complete and before the state is restored (which writes kvmclock's pages):
  /// both ends stand still. Throws to refuse the guest.
  std::function<void(vmm::Machine&)> inspect = [](vmm::Machine&) {};
};

class Destination {
 public:
  /// `connection`: an accepted TCP connection.
  Destination(sys::UniqueFd connection, DestinationOptions options);

  /// Finds out ahead what the move then need not wait for. Loads the host's RDMA drivers, if it has
  /// RDMA devices: the first look at them may take a second (it opens every provider's library).
  /// From any thread.
  static void warm_up() noexcept;

  /// Blocks until the guest runs here, with a high urgency, which the caller lowers soon; null: it
  /// was a dry run, and nothing is left of it. Throws ChannelError when the peer gives up, goes, or
  /// breaks the protocol, and what Machine throws when the guest cannot be here; the peer has been
  /// told then.
  std::unique_ptr<vmm::Machine> run();
  /// The peer has said that nothing is to move. Also once run() has thrown.
  bool dry_run() const { return dry_run_; }
  /// The peer has said what guest it brings. After run() has thrown, if it has not: it was a
  /// stranger, or a source that asks for another destination, or its connection was lost at once.
  bool introduced() const { return introduced_; }
  /// After run() has thrown: the source may have committed, and this end not heard it. Then
  /// deny_to_source(), once what was made of the guest is gone: waits for the source to ask, and
  /// says that its guest will never run here. Until it has heard, `stop`, or some minutes.
  bool source_may_ask() const { return promised_ && !source_gave_up_ && !resuming_; }
  void deny_to_source(const sys::EventFd& stop);

  /// After run(): what is left of the move, if memory of the guest is still to come; else null.
  std::unique_ptr<PostCopy> take_post_copy() { return std::move(post_copy_); }
  /// After run(): what tells the source that its guest runs here; null in post-copy.
  std::unique_ptr<Witness> take_witness() { return std::move(witness_); }

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
  void rehearse();
  std::future<void> restore_and_seal(std::span<const std::byte> state);
  void begin_anew(const Message& begin);
  Handover receive_handover(PreFault& pre_fault);
  void take_guest();
  void take_guest_without_its_memory(Handover handover);
  void let_run();
  void refuse(const char* why) noexcept;
  void hear_it_give_up();
  Running running_since(std::chrono::steady_clock::time_point start) const;

  Wire wire_;
  DestinationOptions options_;
  std::unique_ptr<vmm::Machine> machine_;
  std::mutex mutex_;  // guards, for interrupt(), resuming_ and post_copy_, which has the wire then
  std::unique_ptr<PostCopy> post_copy_;  // after machine_: it goes first
  std::unique_ptr<Witness> witness_;
  std::string token_;  // what the source shows when it comes back
  bool may_post_copy_ = false;
  bool disks_tell_ = false;
  std::optional<memory::GuestMemory::Hold> hold_;  // of machine_'s; outlives channel_'s regions
  std::unique_ptr<Channel> channel_;
  RdmaChannel* rdma_ = nullptr;  // channel_, where it goes by that
  std::uint64_t max_bandwidth_ = 0;
  std::string transport_;
  double cpu_before_ms_ = 0;
  double cpu_rounds_ms_ = 0;
  bool dry_run_ = false;
  bool introduced_ = false;
  bool promised_ = false;        // Ready was said: the source may commit
  bool source_gave_up_ = false;  // and it did not
  bool resuming_ = false;
};

}  // namespace godwit::migration
