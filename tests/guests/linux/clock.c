// Time as the guest sees it: a thread of the highest priority looks at both clocks every few
// milliseconds and remembers the longest gap and every step back.
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <time.h>

#include "workload.h"

enum { kLookEveryMs = 5 };

static atomic_ulong gap_ns, longest_ns, back_count;

int64_t now_ns(int clock) {
  struct timespec now;
  clock_gettime(clock, &now);
  return now.tv_sec * 1000000000LL + now.tv_nsec;
}

void sleep_until(int64_t monotonic_ns) {
  const struct timespec until = {monotonic_ns / 1000000000, monotonic_ns % 1000000000};
  while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL) == EINTR) continue;
}

static void raise_to(atomic_ulong* maximum, unsigned long value) {
  unsigned long seen = atomic_load(maximum);
  while (value > seen && !atomic_compare_exchange_weak(maximum, &seen, value)) continue;
}

static void check_forward(const char* name, int64_t last, int64_t now) {
  if (now >= last) return;
  atomic_fetch_add(&back_count, 1);
  corrupt("%s stepped back from %lld to %lld", name, (long long)last, (long long)now);
}

static void* watch(void* unused) {
  const struct sched_param highest = {.sched_priority = sched_get_priority_max(SCHED_FIFO)};
  pthread_setschedparam(pthread_self(), SCHED_FIFO, &highest);
  int64_t monotonic = now_ns(CLOCK_MONOTONIC), real = now_ns(CLOCK_REALTIME);
  for (;;) {
    sleep_until(now_ns(CLOCK_MONOTONIC) + kLookEveryMs * 1000000LL);
    const int64_t monotonic_now = now_ns(CLOCK_MONOTONIC), real_now = now_ns(CLOCK_REALTIME);
    check_forward("CLOCK_MONOTONIC", monotonic, monotonic_now);
    check_forward("CLOCK_REALTIME", real, real_now);
    if (monotonic_now > monotonic) {
      raise_to(&gap_ns, (unsigned long)(monotonic_now - monotonic));
      raise_to(&longest_ns, (unsigned long)(monotonic_now - monotonic));
    }
    monotonic = monotonic_now;
    real = real_now;
  }
  return unused;
}

void start_watching_clocks(void) { start_thread(watch, NULL); }
unsigned long take_gap_us(void) { return atomic_exchange(&gap_ns, 0) / 1000; }
unsigned long longest_gap_us(void) { return atomic_load(&longest_ns) / 1000; }
void forget_gap(void) { atomic_store(&longest_ns, 0); }
unsigned long steps_back(void) { return atomic_load(&back_count); }

struct pace make_pace(unsigned long bytes, unsigned long kib_per_second) {
  const struct pace pace = {now_ns(CLOCK_MONOTONIC),
                            (int64_t)(bytes * 1000000000ULL / (kib_per_second * 1024ULL))};
  return pace;
}

void next_piece(struct pace* pace) {
  const int64_t now = now_ns(CLOCK_MONOTONIC);
  pace->due += pace->interval;
  if (pace->due < now - 1000000000LL) pace->due = now;  // no burst after a long stop
  if (pace->due > now) sleep_until(pace->due);
}
