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
#include <span>
#include <string>
#include <vector>

#include "migration/channel.h"
#include "migration/compression.h"
#include "migration/convergence.h"
#include "migration/dry_run.h"
#include "migration/page_server.h"
#include "migration/protocol.h"
#include "migration/report.h"
#include "migration/throttle.h"
#include "migration/tls/tls.h"
#include "migration/wire.h"
#include "vmm/machine.h"
#include "vmm/sys/event_fd.h"

namespace godwit::migration {

class PinnedMemory;
class RdmaChannel;
class RdmaEndpoint;

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
  unsigned streams = 0;      // connections for pages by TCP, up to kMaxStreams; 0: by the CPUs here
  bool compress = false;     // pages by TCP, where that is faster
  unsigned rdma_ports = 1;   // of RDMA devices, up to kMaxRdmaPorts, where both ends have as many
  unsigned queue_pairs = 0;  // of each, up to kMaxQueuePairs; 0: by what the link carries
  const PinnedMemory* pinned = nullptr;  // of the machine; outlives the Source
  std::optional<tls::Files> tls = {};    // all connections go by TLS
  std::string tls_name = {};             // what the destination's certificate must say
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

  /// After run() or this has ended with kPaused, or in post-copy ask() with kRuns: goes back to the
  /// destination, and on where the link was lost. The same thread rules and results as of run().
  End resume();
  bool can_resume() const { return server_ && runs_there_; }

  // After run() has ended with kInDoubt. One thread at a time, but for stop_asking().
  /// What became of the guest.
  enum class Word { kNone, kRuns, kNever };
  bool can_ask() const { return !token_.empty(); }
  /// By a new connection to the destination. Takes some seconds at most. After kRuns in post-copy:
  /// resume().
  Word ask();
  /// By the guest's disks, where they can tell (Machine::disks_tell()). With kNever this process
  /// has their locks, and the destination cannot let the guest run any more.
  Word ask_disks();
  /// Makes ask() return kNone. From any thread.
  void stop_asking();
  /// It is known by now, as `why` says: for report().
  void settle(bool there, const std::string& why);

  /// In the place of run(): connects, and measures what the move would depend on; nothing moves.
  /// Blocks for about a second; never throws.
  DryRun dry_run();

  /// Gives the move up if it is not committed yet. Any thread, any time.
  void cancel();
  Progress progress() const;
  /// After run().
  const Report& report() const { return report_; }

 private:
  static constexpr double kAssumedFixedMs = 8;  // of a switch-over beside sending pages
  using Clock = std::chrono::steady_clock;

  void connect();
  void choose_transport(Wire& wire);
  bool begin_rdma(std::vector<std::unique_ptr<RdmaEndpoint>> endpoints, const Accept& accept,
                  std::string& why_not);
  unsigned streams_to_ask_for() const;
  Compression compression(unsigned connections) const;
  void measure_link(DryRun& run);
  void measure_guest(DryRun& run);
  void wait_until(Clock::time_point due);
  void rehearse_switch_over(DryRun& run);
  void foretell(DryRun& run) const;
  void start_rounds();
  void copy_ram_in_time();
  void copy_ram();
  void fall_back(const std::string& why);
  RoundFacts wishes() const;
  double rate(double ms) const;
  double travelled_share() const;
  Verdict judge(std::uint64_t dirty_pages);
  std::string why_not_in_time();
  std::uint64_t send_pass(const memory::PageBitmap& pending);
  void send_chunk(std::span<const memory::PageRange> ranges);
  void pace(std::uint64_t bytes);
  std::uint64_t wire_bytes() const;
  void switch_over();
  void send_last_round(std::span<const std::byte> state);
  void watch_hot_pages();
  void leave_rest(std::span<const std::byte> state);
  void send_hot_pages(const memory::PageBitmap& hot, memory::PageBitmap& missing);
  void serve_rest();
  void reconnect();
  void call_back(std::chrono::milliseconds to_connect, std::chrono::milliseconds to_answer);
  void take_up_rest(std::span<const std::byte> accept);
  void hang_up();
  void note_trouble(const std::string& why);
  End finish(const std::exception_ptr& error);
  void commit();
  void confirm() noexcept;
  Message receive(int timeout_ms);
  Message expect(MessageKind kind, int timeout_ms);
  void roll_back() noexcept;
  void stop_if_cancelled() const;
  void set_phase(const char* phase);
  static double ms_since(Clock::time_point start);
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
  bool dry_ = false;  // dry_run(), not run()
  bool paused_ = false;
  bool disks_unlocked_ = false;
  bool committed_ = false;
  bool post_copy_ = false;            // what the rounds have left goes when the guest runs there
  bool runs_there_ = false;           // the destination has said so
  std::string token_;                 // shown by ask() and resume()
  bool disks_tell_ = false;           // whether the guest has run there
  std::vector<std::int64_t> stamps_;  // of the disks, as it left them
  unsigned sightings_ = 0;            // of who has their locks, in doubt
  sys::EventFd stop_asking_;
  std::unique_ptr<PageServer> server_;  // of what was left
  DirtyCurve curve_;                    // of the guest, as the rounds have shown it
  double transport_began_ms_ = 0;       // since the move began
  std::size_t rounds_before_ = 0;       // by the transport that failed
  double sent_ms_ = 0;                  // of the rounds, for the rate
  std::uint64_t wire_before_ = 0;       // bytes; modulo 2^64 it may be less than none
  double wire_share_ = 1;          // of the bytes of pages that travel: compressed ones do less
  double held_ms_ = 0;             // of these, held back by --max-bandwidth
  std::uint64_t sent_before_ = 0;  // bytes that another transport has sent, which has failed

  std::atomic<bool> cancelled_ = false;
  sys::EventFd given_up_;     // readable then
  mutable std::mutex mutex_;  // guards progress_, and wire_'s being there for cancel()
  Progress progress_;
};

}  // namespace godwit::migration
