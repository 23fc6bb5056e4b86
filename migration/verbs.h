// Verbs objects as owners: constructed means usable, destroyed in the order that verbs demands. One
// thread at a time. Failures throw RdmaError with the verb's name.
#pragma once

#include <infiniband/verbs.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>

#include "migration/protocol.h"

namespace godwit::migration {

class RdmaError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

template <typename T, int (*Destroy)(T*)>
struct VerbsDeleter {
  void operator()(T* object) const { Destroy(object); }
};
using VerbsContext = std::unique_ptr<ibv_context, VerbsDeleter<ibv_context, ibv_close_device>>;
using VerbsDomain = std::unique_ptr<ibv_pd, VerbsDeleter<ibv_pd, ibv_dealloc_pd>>;
using VerbsEvents =
    std::unique_ptr<ibv_comp_channel, VerbsDeleter<ibv_comp_channel, ibv_destroy_comp_channel>>;
using VerbsQueue = std::unique_ptr<ibv_cq, VerbsDeleter<ibv_cq, ibv_destroy_cq>>;
using VerbsPair = std::unique_ptr<ibv_qp, VerbsDeleter<ibv_qp, ibv_destroy_qp>>;
using MemoryRegion = std::unique_ptr<ibv_mr, VerbsDeleter<ibv_mr, ibv_dereg_mr>>;

/// What the first RdmaEndpoint of a process would otherwise do, and be slow at.
void load_rdma_drivers() noexcept;

/// Throws RdmaError with the remedy when RLIMIT_MEMLOCK does not let this process pin `bytes`.
void require_memlock(std::uint64_t bytes);

/// What the peer may do with memory that is registered here.
enum class PeerMay { kNothing, kRead, kWrite };

/// A reliable connection (IBTA 9.7) that is not connected yet, on the device that has the local
/// address of a TCP connection.
class RdmaEndpoint {
 public:
  static constexpr std::uint32_t kSendDepth = 512;    // send work requests outstanding, at most
  static constexpr std::uint32_t kReceiveDepth = 64;  // receives kept posted

  /// `tcp_socket`: the control connection. Throws RdmaError saying why there is no RDMA this way.
  RdmaEndpoint(int tcp_socket, PeerMay peer_may);

  const RdmaAddress& address() const { return address_; }
  /// INIT to RTR to RTS; path MTU is the lower of both ends.
  void connect(const RdmaAddress& peer);
  /// Destroys the queue pair: from now on the peer cannot reach any memory here.
  void disconnect() { pair_.reset(); }

  MemoryRegion register_memory(std::span<std::byte> bytes);
  /// For this process alone: the peer cannot reach it.
  MemoryRegion register_own(std::span<std::byte> bytes);

  void post_send(ibv_send_wr& chain);
  /// The next `n` completions of sends / receives that are there, without waiting; throws RdmaError
  /// for the first that failed (the rest are flushes). Returns the sum of the sends' wr_id / their
  /// number.
  std::uint64_t reap_sends();
  std::uint64_t reap_receives();
  /// Arms the completion events; reap once more after it, then wait for event_fd() to be readable.
  void arm();
  void drain_events();
  int event_fd() const { return events_->fd; }
  std::uint64_t max_message() const { return max_message_; }  // bytes in one WRITE

 private:
  void open(int tcp_socket);
  MemoryRegion register_for(std::span<std::byte> bytes, int access);
  void post_receives(std::uint32_t count);

  VerbsContext context_;
  VerbsDomain domain_;
  VerbsEvents events_;
  VerbsQueue sends_;
  VerbsQueue receives_;
  VerbsPair pair_;
  RdmaAddress address_;
  std::uint8_t port_ = 1;
  std::uint8_t gid_index_ = 0;
  std::uint64_t max_message_ = 0;
  const PeerMay peer_may_;
};

}  // namespace godwit::migration
