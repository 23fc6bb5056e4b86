// One queue pair, of a reliable connection (IBTA 9.7), with what tells its completions. One thread
// at a time. Failures throw RdmaError.
#pragma once

#include <cstdint>

#include "migration/protocol.h"
#include "migration/rdma_port.h"
#include "migration/verbs.h"

namespace godwit::migration {

class RdmaEndpoint {
 public:
  static constexpr std::uint32_t kSendDepth = 512;    // send work requests outstanding, at most
  static constexpr std::uint32_t kReceiveDepth = 64;  // receives kept posted

  /// Not connected yet.
  RdmaEndpoint(const RdmaPort& port, PeerMay peer_may);

  const RdmaPort& port() const { return port_; }
  PeerMay peer_may() const { return peer_may_; }
  const RdmaAddress& address() const { return address_; }
  /// Which of the source's ports it is for; before it is told to the peer.
  void set_port(unsigned number) { address_.port = number; }
  /// INIT to RTR to RTS; path MTU is the lower of both ends.
  void connect(const RdmaAddress& peer);
  /// Destroys the queue pair: from now on the peer cannot reach any memory here.
  void disconnect() { pair_.reset(); }

  void post_send(ibv_send_wr& chain);
  /// A SEND without bytes: it arrives after all that was posted before (IBTA 9.5), and completes as
  /// one send.
  void post_marker();
  /// The next `n` completions of sends / receives that are there, without waiting; throws RdmaError
  /// for the first that failed (the rest are flushes). Returns the sum of the sends' wr_id / their
  /// number.
  std::uint64_t reap_sends();
  std::uint64_t reap_receives();
  /// Arms the completion events; reap once more after it, then wait for event_fd() to be readable.
  void arm();
  void drain_events();
  int event_fd() const { return events_->fd; }
  std::uint64_t max_message() const { return port_.attributes.max_msg_sz; }  // bytes in one WRITE

 private:
  void post_receives(std::uint32_t count);

  const RdmaPort port_;
  const PeerMay peer_may_;
  VerbsEvents events_;
  VerbsQueue sends_;
  VerbsQueue receives_;
  VerbsPair pair_;
  RdmaAddress address_;
};

}  // namespace godwit::migration
