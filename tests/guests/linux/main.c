// Sets everything going, ticks, and obeys the console. See workload.h.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/reboot.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

#include "workload.h"

enum { kLineNs = 200000000 };  // by then a line is out

static atomic_ulong tick_count;

static unsigned long tick_ms;

static atomic_bool quiet;

static void* tick(void* unused) {
  const int64_t interval = (int64_t)tick_ms * 1000000;
  for (int64_t due = now_ns(CLOCK_MONOTONIC);;) {
    const unsigned long sequence = atomic_fetch_add(&tick_count, 1);
    const int64_t now = now_ns(CLOCK_MONOTONIC);
    if (!atomic_load(&quiet)) {
      say("tick %lu mono=%lld real=%lld gap_us=%lu back=%lu pages=%lu blocks=%lu", sequence,
          (long long)now, (long long)now_ns(CLOCK_REALTIME), take_gap_us(), steps_back(),
          pages_done(), blocks_done());
    }
    due = due + interval > now ? due + interval : now + interval;
    sleep_until(due);
  }
  return unused;
}

// Where the machine is emulated a line on the console is a gap of its own.
static void be_quiet(unsigned long ms) {
  const int64_t end = now_ns(CLOCK_MONOTONIC) + (int64_t)ms * 1000000;
  atomic_store(&quiet, true);
  say("quiet");
  sleep_until(now_ns(CLOCK_MONOTONIC) + kLineNs);
  forget_gap();
  sleep_until(end);
  const unsigned long longest = longest_gap_us();
  atomic_store(&quiet, false);
  say("quieted longest_us=%lu", longest);
}

static void obey(const char* line) {
  if (strcmp(line, "report") == 0) {
    say("report ticks=%lu longest_gap_us=%lu back=%lu pages=%lu blocks=%lu corrupt=%lu",
        atomic_load(&tick_count), longest_gap_us(), steps_back(), pages_done(), blocks_done(),
        atomic_load(&corrupt_count));
  } else if (strcmp(line, "gap") == 0) {
    say("gap longest_us=%lu", longest_gap_us());
    forget_gap();
  } else if (strncmp(line, "quiet ", 6) == 0) {
    be_quiet(strtoul(line + 6, NULL, 10));
  } else if (strcmp(line, "verify") == 0) {
    const unsigned long pages = verify_memory(), blocks = verify_disk();
    say("verified pages=%lu blocks=%lu corrupt=%lu", pages, blocks, atomic_load(&corrupt_count));
  } else if (strncmp(line, "dmesg", 5) == 0) {
    print_dmesg(strcmp(line, "dmesg all") == 0);
  } else if (strcmp(line, "poweroff") == 0) {
    end_system(RB_POWER_OFF);
  } else if (strcmp(line, "reboot") == 0) {
    end_system(RB_AUTOBOOT);
  } else {
    say("unknown %s", line);
  }
}

int main(void) {
  set_up_system();
  const unsigned long mib = number("mib", 64);
  const long cpus = sysconf(_SC_NPROCESSORS_ONLN);
  const unsigned workers = (unsigned)number("workers", (unsigned long)cpus);
  const char* disk = parameter("disk", "");
  tick_ms = number("tick", 100);
  if (workers == 0 || workers > 64 || mib == 0 || tick_ms == 0) {
    say("CORRUPT bad parameter");
    end_system(RB_POWER_OFF);
  }
  start_memory(mib, workers, number("rate", 1024));
  if (*disk != 0) start_disk(disk, number("disk_mib", 16), number("disk_rate", 1024));
  watch_power_button();
  start_watching_clocks();
  struct utsname names;
  uname(&names);
  say("ready mib=%lu workers=%u cpus=%ld kernel=%s disk=%s", mib, workers, cpus, names.release,
      disk);
  const char* then = parameter("then", "");
  if (*then != 0) obey(then);
  start_thread(tick, NULL);
  char line[128];
  while (fgets(line, sizeof line, stdin) != NULL) {
    line[strcspn(line, "\r\n")] = 0;
    if (*line != 0) obey(line);
  }
  for (;;) pause();  // the console has no input
}
