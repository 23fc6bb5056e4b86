// The destination's end of a move: takes one connection and gives back a machine that runs, or
// throws and leaves nothing. Trusts nothing that the peer says. One thread, but for interrupt().
#pragma once

#include <functional>
#include <memory>

#include "migration/channel.h"
#include "migration/protocol.h"
#include "migration/wire.h"
#include "vmm/machine.h"

namespace godwit::migration {

struct DestinationOptions {
  /// Called with what the guest is to be before anything is built: may change its name, and throws
  /// to refuse it (what() is told to the peer).
  std::function<void(vmm::MachineConfig&)> admit = [](vmm::MachineConfig&) {};
  vmm::ConsoleSink console;
  /// A memfd that is the guest's RAM already, for a source that hands it over: then the transport
  /// has to be "shared". Else none.
  sys::UniqueFd ram = {};
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

  /// Makes run() throw, unless the guest runs here already. From any thread.
  void interrupt() { wire_.interrupt(); }

  std::string_view transport() const { return transport_; }

 private:
  void prepare();
  void take_guest();
  Message next();

  Wire wire_;
  DestinationOptions options_;
  std::unique_ptr<vmm::Machine> machine_;
  std::unique_ptr<Channel> channel_;
  std::string transport_;
  double cpu_before_ms_ = 0;
  bool resuming_ = false;
};

}  // namespace godwit::migration
