// A guest whose memory proves itself: every 64-bit word of a page holds the page's number and the
// visit that wrote it. For ever, each page is visited in turn: what the last visit wrote is
// verified, and one word in 128 is verified and rewritten (filling whole pages by emulated
// instructions takes a millisecond each). A page that a move lost, tore, mixed up or left behind is
// a line "CORRUPT ...". One or two vCPUs, half of the memory each. Memory is zero before its first
// visit.
//
// Parameters: mib=N memory to use, base=N MiB where it starts, cpus=1|2, tick=MS between lines
// "tick SEQ ...", rate=MiB/s dirtied by each vCPU (0: as fast as it goes), verify=0 to write only.
// Typed: v verifies every word and says "verified", q powers off, r resets, t triple-faults, s goes
// silent (halts with interrupts off); anything else is said back.
#include "guest.h"

namespace guest {
namespace {

constexpr std::uint64_t kPageSize = 4096;
constexpr unsigned kPageWords = kPageSize / sizeof(std::uint64_t);
constexpr unsigned kStripes = 128;  // a visit writes the words of one stripe: every 128th
constexpr std::uint64_t kMiB = 1 << 20;
constexpr std::uint64_t kMs = 1'000'000;  // ns
constexpr unsigned kChunk = 16;           // pages between two looks at the clock
constexpr unsigned kSweep = 4;            // of them verified to the last word
constexpr std::uint64_t kPoll = 10 * kMs;
constexpr unsigned kMaxComplaints = 10;
constexpr std::uint64_t kJitter =
    20 * kMs;  // of a clock that is not stable; a move that forgets the clock is far more

/// One vCPU's share of the memory.
class Worker {
 public:
  Worker(std::uint64_t first_page, std::uint64_t pages, bool verify)
      : first_(first_page), end_(first_page + pages), next_(first_page), verify_(verify) {}

  /// Visits some pages; on the way, verifies every word of all of them if that was asked for.
  void step() {
    if (__atomic_exchange_n(&verify_all_, false, __ATOMIC_ACQ_REL)) swept_ = first_;
    for (unsigned i = 0; i < kSweep && swept_ != end_; ++i) sweep();
    for (unsigned i = 0; i < kChunk; ++i) {
      visit(next_);
      if (++next_ == end_) {
        next_ = first_;
        ++visits_;
      }
    }
    __atomic_store_n(&done_, done_ + kChunk, __ATOMIC_RELAXED);
  }

  std::uint64_t done() const { return __atomic_load_n(&done_, __ATOMIC_RELAXED); }
  void ask_to_verify() { __atomic_store_n(&verify_all_, true, __ATOMIC_RELEASE); }

 private:
  static std::uint64_t* at(std::uint64_t page) {
    return reinterpret_cast<std::uint64_t*>(page * kPageSize);
  }
  static std::uint64_t value(std::uint64_t page, std::uint64_t visit) {
    return visit == 0 ? 0 : page << 32 | visit;
  }
  /// The last of `visits` visits that wrote words of this stripe; 0 if none did.
  static std::uint64_t last_visit(std::uint64_t visits, std::uint64_t stripe) {
    const std::uint64_t ago = (visits - stripe) % kStripes;
    return ago < visits ? visits - ago : 0;
  }

  void visit(std::uint64_t page) {
    const std::uint64_t number = visits_ + 1;
    std::uint64_t* const words = at(page) + number % kStripes;
    if (verify_) {
      check(page, visits_ % kStripes, value(page, visits_));
      check(page, number % kStripes, value(page, last_visit(visits_, number % kStripes)));
    }
    const std::uint64_t fresh = value(page, number);
#pragma GCC unroll 4
    for (unsigned i = 0; i < kPageWords; i += kStripes) words[i] = fresh;
  }

  void check(std::uint64_t page, std::uint64_t stripe, std::uint64_t expected) {
    const std::uint64_t* const words = at(page) + stripe;
#pragma GCC unroll 4
    for (unsigned i = 0; i < kPageWords; i += kStripes) {
      if (words[i] != expected) [[unlikely]]
        return complain(page, stripe + i, words[i], expected);
    }
  }

  void sweep() {
    const std::uint64_t visits = swept_ < next_ ? visits_ + 1 : visits_;
    for (std::uint64_t stripe = 0; stripe < kStripes; ++stripe) {
      check(swept_, stripe, value(swept_, last_visit(visits, stripe)));
    }
    if (++swept_ == end_) print("verified pages=", end_ - first_, " visits=", visits_);
  }

  void complain(std::uint64_t page, std::uint64_t word, std::uint64_t found,
                std::uint64_t expected) {
    if (++complaints_ > kMaxComplaints) return;
    print("CORRUPT page ", page, " word ", word, " is ", Hex{found}, " not ", Hex{expected});
  }

  std::uint64_t first_, end_, next_;
  std::uint64_t visits_ = 0;    // of each page from next_ on; those before it had one more
  std::uint64_t done_ = 0;      // pages visited
  std::uint64_t swept_ = end_;  // every word before this one was verified
  bool verify_;
  bool verify_all_ = false;
  unsigned complaints_ = 0;
};

/// When a vCPU is to work next, by its own clock.
class Pace {
 public:
  explicit Pace(std::uint64_t mib_per_second)
      : chunk_ns_(
            mib_per_second == 0 ? 0 : kChunk * kPageSize * 1'000 * kMs / (mib_per_second * kMiB)) {}

  bool due(std::uint64_t now) {
    if (now < due_) return false;
    // No burst after a pause.
    due_ = now - due_ > 100 * kMs ? now + chunk_ns_ : due_ + chunk_ns_;
    return true;
  }
  std::uint64_t wait_ns(std::uint64_t now) const { return due_ > now ? due_ - now : 0; }

 private:
  std::uint64_t chunk_ns_;
  std::uint64_t due_ = 0;
};

/// Looks at the clock and remembers what was wrong with it.
class Watch {
 public:
  std::uint64_t now() {
    const std::uint64_t now = clock_.now_ns();
    if (now < last_) {
      if (!clock_.is_stable() && last_ - now < kJitter) return last_;
      print("CORRUPT clock stepped back from ", last_, " to ", now);
    } else if (last_ != 0 && now - last_ > gap_) {
      gap_ = now - last_;
    }
    last_ = now;
    return now;
  }
  /// The longest time between two looks since the last call.
  std::uint64_t take_gap() {
    const std::uint64_t gap = gap_;
    gap_ = 0;
    return gap;
  }

 private:
  Clock clock_;
  std::uint64_t last_ = 0;
  std::uint64_t gap_ = 0;
};

// What the vCPUs share.
Worker* first_worker;
Worker* second_worker;  // null with one vCPU
std::uint64_t rate;

void take(int c) {
  switch (c) {
    case 'v':
      first_worker->ask_to_verify();
      if (second_worker != nullptr) second_worker->ask_to_verify();
      break;
    case 'q':
      power_off();
    case 'r':
      reset();
    case 't':
      triple_fault();
    case 's':
      halt();
    default:
      print("typed ", static_cast<char>(c));
  }
}

void run_second() {
  static Watch watch;
  Pace pace(rate);
  for (;;) {
    const std::uint64_t now = watch.now();
    if (pace.due(now)) {
      second_worker->step();
    } else {
      sleep_ns(pace.wait_ns(now));
    }
  }
}

void run_first(std::uint64_t tick_ns) {
  static Watch watch;
  Pace pace(rate);
  std::uint64_t tick_due = watch.now(), poll_due = tick_due;
  for (std::uint64_t sequence = 0;;) {
    const std::uint64_t now = watch.now();
    if (now >= tick_due) {
      print("tick ", sequence++, " t=", now / kMs, " gap_us=", watch.take_gap() / 1000,
            " pages=", first_worker->done(), ",",
            second_worker != nullptr ? second_worker->done() : 0);
      tick_due = now + tick_ns;
    }
    if (now >= poll_due) {
      poll_due = now + kPoll;
      for (int c = typed(); c >= 0; c = typed()) take(c);
    }
    if (pace.due(now)) {
      first_worker->step();
    } else {
      const std::uint64_t wait = pace.wait_ns(now);
      sleep_ns(wait < kPoll ? wait : kPoll);
    }
  }
}

}  // namespace

void main() {
  const std::uint64_t pages = parameter("mib", 16) * kMiB / kPageSize;
  const std::uint64_t base = parameter("base", 4) * kMiB / kPageSize;
  const std::uint64_t cpus = parameter("cpus", 1);
  const std::uint64_t share = pages / (cpus == 2 ? 2 : 1);
  const bool verify = parameter("verify", 1) != 0;
  rate = parameter("rate", 0);
  Worker first(base, share, verify);
  Worker second(base + share, share, verify);
  first_worker = &first;
  if (cpus == 2) {
    second_worker = &second;
    if (!start_second_cpu(run_second)) print("CORRUPT the second vCPU does not start");
  }
  print("ready cpus=", cpus_present(), " pages=", pages);
  run_first(parameter("tick", 50) * kMs);
}

}  // namespace guest
