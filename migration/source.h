// The source's end of a move: reads as the algorithm. run() in a thread of its own; cancel() and
// progress() from any other.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <exception>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "migration/channel.h"
#include "migration/convergence.h"
#include "migration/page_server.h"
#include "migration/protocol.h"
#include "migration/report.h"
#include "migration/throttle.h"
#include "migration/tls/tls.h"
#include "migration/wire.h"
#include "vmm/machine.h"
#include "vmm/sys/event_fd.h"

namespace godwit::migration {

class RdmaChannel;

enum class Transport { kAuto, kRdma, kTcp };
/// When the guest begins to run at the destination: with all of its memory, without, or, of these,
/// without only where it dirties too much for the first.
enum class Mode { kPreCopy, kPostCopy, kHybrid };

struct SourceOptions {
  std::string to;  // HOST:PORT, IPv6 in brackets
  Transport transport = Transport::kAuto;
  Mode mode = Mode::kPreCopy;
  double downtime_limit_ms = 50;
  std::uint64_t max_bandwidth = 0;  // bits a second; 0: no limit
  double timeout_ms = 60000;        // of the whole move; 0: none
  bool verify = false;              // compare digests of RAM before commit
  unsigned max_throttle = 0;        // percent of the vCPUs' time, up to kMaxThrottle; 0: none
  unsigned streams = 0;  // connections for pages by TCP, up to kMaxStreams; 0: by the CPUs here
  std::optional<tls::Files> tls = {};  // all connections go by TLS
  std::string tls_name = {};           // what the destination's certificate must say
};

class Source {
 public:
  /// How a move left the guest.
  enum class End {
    kMoved,    // it runs at the destination; `machine` is paused and must never run again
    kHere,     // it is as it was before; nothing is left at the destination
    kInDoubt,  // committed, and no answer: it is paused here and may run there
    kPaused,   // it runs there, and memory that it has not got is here: resume()
  };

  /// `machine` is running, outlives this, and belongs to run() while that lasts.
  Source(vmm::Machine& machine, SourceOptions options);
  /// Hands the guest over to the process at the other end of `successor`, a UNIX stream socket,
  /// which has the same RAM (see DestinationOptions::ram): `options.to` is not used.
  Source(vmm::Machine& machine, SourceOptions options, sys::UniqueFd successor);

  /// Blocks until the move has ended; never throws. report() tells why.
  End run();

  /// After run() or this has ended with kPaused, or with kInDoubt where can_resume(): goes back to
  /// the destination, and on where the link was lost. The same thread rules and results as of
  /// run().
  End resume();
  bool can_resume() const { return server_ && committed_; }

  /// Gives the move up if it is not committed yet. Any thread, any time.
  void cancel();
  Progress progress() const;
  /// After run().
  const Report& report() const { return report_; }

 private:
  using Clock = std::chrono::steady_clock;

  void connect();
  void choose_transport(Wire& wire);
  unsigned streams_to_ask_for() const;
  void start_rounds();
  void copy_ram();
  void fall_back(const std::string& why);
  Verdict judge(std::uint64_t dirty_pages);
  std::uint64_t send_pass(const memory::PageBitmap& pending);
  void send_chunk(std::span<const memory::PageRange> ranges);
  void pace(std::uint64_t bytes);
  void switch_over();
  void send_last_round(std::span<const std::byte> state);
  void leave_rest(std::span<const std::byte> state);
  void serve_rest();
  void reconnect();
  End finish(const std::exception_ptr& error);
  void commit();
  Message receive(int timeout_ms);
  Message expect(MessageKind kind, int timeout_ms);
  void roll_back() noexcept;
  void stop_if_cancelled() const;
  void set_phase(const char* phase);
  double elapsed_ms() const;

  vmm::Machine& machine_;
  const SourceOptions options_;
  sys::UniqueFd successor_;  // until it is the wire's
  const bool shared_ram_;
  const Clock::time_point began_ = Clock::now();
  Report report_;
  memory::PageBitmap pending_;  // pages of the round that has not ended
  memory::PageBitmap sent_;     // pages that the destination may have as something else than zero

  Security security_;  // where it goes by TLS
  std::unique_ptr<Wire> wire_;
  std::unique_ptr<Channel> channel_;
  RdmaChannel* rdma_ = nullptr;  // channel_, where it goes by that
  Throttle throttle_;
  bool paused_ = false;
  bool disks_unlocked_ = false;
  bool committed_ = false;
  bool post_copy_ = false;              // what the rounds have left goes when the guest runs there
  bool runs_there_ = false;             // the destination has said so
  std::string token_;                   // shown by resume()
  std::unique_ptr<PageServer> server_;  // of what was left
  double sent_ms_ = 0;                  // of the rounds, for the rate
  double held_ms_ = 0;                  // of these, held back by --max-bandwidth
  std::uint64_t sent_before_ = 0;       // bytes that another transport has sent, which has failed

  std::atomic<bool> cancelled_ = false;
  sys::EventFd given_up_;     // readable then
  mutable std::mutex mutex_;  // guards progress_, and wire_'s being there for cancel()
  Progress progress_;
};

}  // namespace godwit::migration
