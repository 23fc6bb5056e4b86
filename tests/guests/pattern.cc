// A guest whose memory proves itself: every 64-bit word of a page holds the page's number and a
// generation, and for ever each page is verified and rewritten with the next one. A page that a move
// lost, tore, mixed up or left behind is a line "CORRUPT ...". One or two vCPUs, half of the memory each.
//
// Parameters: mib=N memory to fill, base=N MiB where it starts, cpus=1|2, tick=MS between lines
// "tick SEQ ...", rate=MiB/s for each vCPU (0: as fast as it goes), verify=0 to write only.
// Typed: q powers off, r resets, t triple-faults, s goes silent (halts with interrupts off), anything
// else is said back.
#include "guest.h"

namespace guest {
namespace {

constexpr std::uint64_t kPageSize = 4096;
constexpr std::size_t kPageWords = kPageSize / sizeof(std::uint64_t);
constexpr std::uint64_t kMiB = 1 << 20;
constexpr std::uint64_t kMs = 1'000'000;  // ns
constexpr unsigned kChunk = 16;           // pages between two looks at the clock
constexpr std::uint64_t kPoll = 10 * kMs;
constexpr unsigned kMaxComplaints = 10;

/// One vCPU's share of the memory.
class Worker {
 public:
  Worker(std::uint64_t first_page, std::uint64_t pages, bool verify)
      : first_(first_page), end_(first_page + pages), next_(first_page), verify_(verify) {}

  void fill() {
    for (std::uint64_t page = first_; page != end_; ++page) write(page, generation_);
  }

  void step() {
    for (unsigned i = 0; i < kChunk; ++i) {
      if (verify_) check(next_, generation_);
      write(next_, generation_ + 1);
      if (++next_ == end_) {
        next_ = first_;
        ++generation_;
      }
    }
    done_ += kChunk;
  }

  std::uint64_t done() const { return __atomic_load_n(&done_, __ATOMIC_RELAXED); }

 private:
  static std::uint64_t* at(std::uint64_t page) {
    return reinterpret_cast<std::uint64_t*>(page * kPageSize);
  }
  static std::uint64_t value(std::uint64_t page, std::uint32_t generation) {
    return page << 32 | generation;
  }
  static void write(std::uint64_t page, std::uint32_t generation) {
    fill_words(at(page), value(page, generation), kPageWords);
  }

  void check(std::uint64_t page, std::uint32_t generation) {
    const std::size_t same = equal_words(at(page), value(page, generation), kPageWords);
    if (same == kPageWords || complaints_ == kMaxComplaints) return;
    ++complaints_;
    print("CORRUPT page ", page, " word ", same, " is ", Hex{at(page)[same]}, " not ",
          Hex{value(page, generation)});
  }

  std::uint64_t first_, end_, next_;
  std::uint64_t done_ = 0;  // pages verified and rewritten
  std::uint32_t generation_ = 1;
  bool verify_;
  unsigned complaints_ = 0;
};

/// When a vCPU is to work next, by its own clock.
class Pace {
 public:
  explicit Pace(std::uint64_t mib_per_second)
      : chunk_ns_(mib_per_second == 0 ? 0
                                      : kChunk * kPageSize * 1'000 * kMs / (mib_per_second * kMiB)) {}

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
Worker* second_worker;
std::uint64_t rate;

void take(int c) {
  switch (c) {
    case 'q': power_off();
    case 'r': reset();
    case 't': triple_fault();
    case 's': halt();
    default: print("typed ", static_cast<char>(c));
  }
}

void run_second() {
  static Watch watch;
  Pace pace(rate);
  second_worker->fill();
  for (;;) {
    const std::uint64_t now = watch.now();
    if (pace.due(now)) {
      second_worker->step();
    } else {
      sleep_ns(pace.wait_ns(now));
    }
  }
}

void run_first(Worker& worker, std::uint64_t tick_ns) {
  static Watch watch;
  Pace pace(rate);
  std::uint64_t tick_due = watch.now(), poll_due = tick_due;
  for (std::uint64_t sequence = 0;;) {
    const std::uint64_t now = watch.now();
    if (now >= tick_due) {
      print("tick ", sequence++, " t=", now / kMs, " gap_us=", watch.take_gap() / 1000,
            " pages=", worker.done(), ",", second_worker != nullptr ? second_worker->done() : 0);
      tick_due = now + tick_ns;
    }
    if (now >= poll_due) {
      poll_due = now + kPoll;
      for (int c = typed(); c >= 0; c = typed()) take(c);
    }
    if (pace.due(now)) {
      worker.step();
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
  first.fill();
  if (cpus == 2) {
    second_worker = &second;
    if (!start_second_cpu(run_second)) print("CORRUPT the second vCPU does not start");
  }
  print("ready cpus=", cpus_present(), " pages=", pages);
  run_first(first, parameter("tick", 50) * kMs);
}

}  // namespace guest
