// What the two ends of a move say to each other, and in which order.
//
// One TCP connection carries control for the whole move, and the pages too where there is no RDMA.
// Each end opens it with a Preamble; a peer that is not Godwit, or speaks another version, is
// refused there. Everything after it is frames: a FrameHeader and `length` bytes.
//
// clang-format off
//   source                                        destination
//     | Preamble  ------------------------------->  |
//     |  <-------------------------------- Preamble |
//     | Hello {machine, requirements, rdma} ----->  |  builds the machine in the same shape,
//     |                                             |  opens the disks
//     |  <---------- Accept {rdma} or Refuse {why}  |
//     | Preamble, Join {token} -- new connections ->|  TCP only: as many further streams of pages as
//     |  <-------------------------------- Preamble |  Accept grants, none where it grants none
//     | Begin {transport, streams, ports} ------->  |  both ends now use that Channel
//     | Register {extents} ---------------------->  |  RDMA only, whenever new extents hold data
//     |  <----------------------- Registered {rkeys}|
//     | pages ===================================>  |  rounds: RDMA WRITE, or Pages and Zero frames
//     |                                             |  TCP: Compressed frames where that was asked for and pays
//     | Mark {number} on every further stream --->  |  the next message names it, and waits for it
//     | Sync ------------------------------------>  |  TCP only, at the end of a round: what is still
//     |  <---------------------------------- Synced |  on its way would count as downtime
//     | Begin {tcp}, Sync ----------------------->  |  where RDMA has failed meanwhile, until Commit:
//     |  <---------------------------------- Synced |  its queue pair and its memory regions are gone,
//     |                                             |  the rounds go on over TCP
//     |   (guest paused, disks unlocked)            |
//     | last pages, Verify {digests} ==========>  |  Verify only where it was asked for: compares
//     | State ================================>  |  restores the state, locks the disks
//     |  <------------------ Ready or Refuse {why}  |
//     |     until here any failure leaves the guest at the source
//     | Commit ---------------------------------->  |  from here the source never runs it by itself
//     |  <------------------------- Running {cost}  |
//     | Arrived --------------------------------->  |  the source knows, and ends
//
//   Post-copy: Hello says that it may come to that. Then, in the place of the last pages:
//     |   (guest paused, disks unlocked)            |
//     | Offer {extents, rkeys} ------------------>  |  RDMA only: where the source's RAM lies
//     | Missing {bitmap}, State ----------------->  |  restores the state
//     |  <----------- Fetch {pages} ... and RDMA READ: whenever somebody there waits for a page
//     | pages ----------------------------------->  |  TCP only: what is asked for, and the rest
//     |  <------------------------------------ Ready|
//     | Commit ---------------------------------->  |
//     |  <------------------------- Running {cost}  |
//     |  <------------------------------ Left {n}   |  RDMA only, for the source's progress
//     |  <-------------------------------- Arrived  |  no page is missing
//     | Arrived --------------------------------->  |  the source ends
//   Dry run: Hello says so; as above to Begin, then:
//     | pages, Sync ... =======================>  |  bursts, to measure the link
//     | Rehearse ------------------------------>  |  saves its machine, which has never run
//     |  <--------------------------------- State |
//     | State --------------------------------->  |  the same: restores it, locks nothing
//     |  <--------------------------------- Ready |  both ends are as they were before
//   After a lost link, on a new connection to where the first one went:
//     | Preamble, Resume {token, rdma} ---------->  |
//     |  <------ Preamble, Refuse {why}             |  says who does not know the token: no answer
//     |  <-------------------------- Never {why}    |  was not told to run the guest, and will not
//     |  <------------------------- Running {cost}  |  it runs with all of its memory
//     | Arrived --------------------------------->  |  after either: the source knows
//     |  <--------- Accept {rdma}, Missing {bitmap} |  post-copy: it runs without
//     | Offer {extents, rkeys} ------------------>  |  RDMA only; then on as above
// clang-format on
//
// Either end sends Ping while it waits, so that unacknowledged bytes betray a cut link to
// TCP_USER_TIMEOUT; Pings are dropped by the receiver. A source that gives up before Commit sends
// Abort {why}; a destination that cannot go on sends Refuse {why} at any time before Running, and
// the source heeds it also while it sends pages. A destination that was Ready and hears neither
// Commit nor Abort stays for a while, to answer Resume with Never: nobody else can tell the source.
//
// Structured payloads are JSON of at most kMaxJson bytes and kMaxJsonDepth levels; integers on the
// wire are little-endian (x86-64 only).
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "migration/channel.h"
#include "vmm/config.h"
#include "vmm/memory/page_bitmap.h"
#include "vmm/memory/page_range.h"

namespace godwit::migration {

constexpr std::uint32_t kProtocolVersion = 7;

struct Preamble {
  char magic[8] = {'G', 'O', 'D', 'W', 'I', 'T', '\r', '\n'};
  std::uint32_t version = kProtocolVersion;
  std::uint32_t reserved = 0;
};

enum class MessageKind : std::uint32_t {
  kHello = 1,
  kAccept,
  kRefuse,
  kBegin,
  kRegister,
  kRegistered,
  kPages,
  kZero,
  kState,
  kReady,
  kCommit,
  kRunning,
  kAbort,
  kPing,
  kSync,
  kSynced,
  kVerify,
  kMissing,
  kOffer,
  kFetch,
  kLeft,
  kArrived,
  kResume,
  kJoin,
  kMark,
  kCompressed,
  kRehearse,
  kNever,
};

struct FrameHeader {
  std::uint32_t magic = kMagic;
  MessageKind kind{};
  // This message counts only once: RDMA, that many SENDs have arrived; TCP, every further stream's
  // Mark of that number has. Of a Mark: its number. Else 0.
  std::uint32_t marker = 0;
  std::uint32_t reserved = 0;
  std::uint64_t length = 0;  // bytes that follow
  static constexpr std::uint32_t kMagic = 0x54574447;
};
static_assert(sizeof(FrameHeader) == 24);

constexpr std::uint64_t kMaxJson = 1 << 20;
constexpr int kMaxJsonDepth = 8;
constexpr std::uint64_t kMaxState = 64 << 20;
constexpr std::uint64_t kMaxRangesInFrame = 512;
constexpr std::uint64_t kMaxFramePages = 4096;  // 16 MiB of pages in one Pages frame
constexpr unsigned kMaxStreams = 16;            // connections that carry pages, the first included

/// The largest payload this kind may have, bytes.
std::uint64_t max_payload(MessageKind kind);
const char* kind_name(MessageKind kind);

/// What one end of an RDMA connection must know of the other (IBTA 9.2; GID for RoCE and routed
/// IB).
struct RdmaAddress {
  std::uint32_t qp_number = 0;
  std::uint32_t packet_sequence = 0;  // 24 bits
  std::uint16_t lid = 0;
  std::uint8_t mtu = 0;  // enum ibv_mtu
  bool ethernet = true;
  std::vector<std::uint8_t> gid;  // 16 bytes
  unsigned port = 0;              // of the source's ports, the one that this is for
  unsigned network_bits = 128;    // of its GID; beyond the first port
};
constexpr unsigned kMaxRdmaPorts = 4;
constexpr unsigned kMaxQueuePairs = 8;  // of one port

struct Hello {
  vmm::MachineConfig machine;
  std::string requirements;       // Machine::requirements()
  std::uint64_t data_bytes = 0;   // of RAM that is not a hole: what RDMA would pin
  std::vector<RdmaAddress> rdma;  // queue pairs, by port; empty: no RDMA
  bool postcopy = false;          // the source may go over to post-copy
  std::uint64_t max_bandwidth =
      0;                 // bits a second of what the destination fetches then; 0: no limit
  unsigned streams = 1;  // connections that the source would send pages by, 1 to kMaxStreams
  bool dry_run = false;  // nothing is to move
};

struct Accept {
  std::vector<RdmaAddress> rdma;  // of each port that is reached, as many as were offered
  std::string rdma_reason;        // why there are none, where some were offered
  std::string token;  // what a source shows that comes back after a lost link; empty: it cannot
  bool disks_tell = false;  // Machine's: who gets the guest marks its disks before it runs
  unsigned streams = 1;     // at most as many as asked for
  std::string join;         // Join's token, of kJoinToken characters, where `streams` is above 1
};

/// The first frame of a further stream.
constexpr std::size_t kJoinToken = 32;
struct Join {
  char token[kJoinToken] = {};
};

/// In the place of Hello, on a later connection of the same move.
struct Resume {
  std::string token;
  bool rdma = false;
  RdmaAddress rdma_address;
};

struct Begin {
  std::string transport;             // "rdma", "tcp" or "shared"
  unsigned streams = 1;              // that carry pages; above 1 only with "tcp"
  std::vector<unsigned> ports = {};  // "rdma": that carry pages, ascending
};

struct Running {
  double resume_ms = 0;
  double cpu_ms = 0;         // of the destination's process, for the whole move
  double cpu_rounds_ms = 0;  // of these, from Begin to the guest's pause
};

// JSON and back; decoding throws ChannelError naming the field for anything missing or out of
// range.
std::string encode(const Hello& hello);
std::string encode(const Accept& accept);
std::string encode(const Begin& begin);
std::string encode(const Running& running);
std::string encode(const Resume& resume);
std::string encode_reason(const std::string& why);
Hello decode_hello(std::span<const std::byte> payload);
Accept decode_accept(std::span<const std::byte> payload);
Begin decode_begin(std::span<const std::byte> payload);
Running decode_running(std::span<const std::byte> payload);
Resume decode_resume(std::span<const std::byte> payload);
std::string decode_reason(std::span<const std::byte> payload);

/// Ranges out of a frame's payload; throws ChannelError unless there are 1..`max`, each non-empty
/// and inside `pages` pages of RAM, ascending, and not overlapping.
std::vector<memory::PageRange> decode_ranges(std::span<const std::byte> payload,
                                             std::uint64_t pages, std::uint64_t max);

/// A Missing's bitmap, of just `pages` pages; throws ChannelError.
memory::PageBitmap decode_missing(std::span<const std::byte> payload, std::uint64_t pages);

/// Where an extent of guest RAM lies in the peer's memory: for each range of a Register one per
/// port in use, in their order.
struct RemoteExtent {
  std::uint64_t address = 0;
  std::uint32_t rkey = 0;
  std::uint32_t reserved = 0;
};

/// An extent of the source's RAM that the destination may READ; a list of them is an Offer.
struct OfferedExtent {
  memory::PageRange range;
  RemoteExtent at;
};
constexpr std::uint64_t kMaxOffered = 1 << 16;

/// Inside `pages` pages of RAM, ascending, not overlapping; throws ChannelError.
std::vector<OfferedExtent> decode_offer(std::span<const std::byte> payload, std::uint64_t pages);

}  // namespace godwit::migration
