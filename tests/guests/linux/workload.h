// The program that Linux guests of the tests and the bench run as /init: memory, disk and clocks
// that prove themselves, told on the serial console. The same under every hypervisor.
//
// Parameters, on the kernel's command line:
//   mib=N         memory to fill and rewrite, default 64
//   rate=KIB      rewritten and verified each second, all workers together, default 1024
//   workers=N     threads that do so, default: one a CPU
//   tick=MS       between two tick lines, default 100
//   disk=PATH     block device to write and verify, none by default; disk_mib=N of it, default 16;
//                 disk_rate=KIB each second, default 1024
//   then=poweroff powers off as soon as everything is set up; then=reboot likewise
//
// It prints
//   ready mib=N workers=N cpus=N kernel=RELEASE disk=PATH
//   tick SEQ mono=NS real=NS gap_us=N back=N pages=N blocks=N    gap: the longest since the last
//   tick CORRUPT ...                                                  what should never be seen
// and takes lines:
//   report        -> report ticks=N longest_gap_us=N back=N pages=N blocks=N corrupt=N
//   gap           -> gap longest_us=N                            and forgets it
//   quiet MS      -> quiet, then no line for MS milliseconds, then
//                    quieted longest_us=N                        the longest gap after 200 ms
//   verify        -> verified pages=N blocks=N corrupt=N         all of memory and disk
//   dmesg         -> dmesg: LINE for each complaint, then: dmesg end lines=N complaints=N
//   dmesg all     -> the same for every line
//   poweroff, reboot                                             as does the ACPI power button
#pragma once

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

enum { kPageSize = 4096, kPageWords = kPageSize / 8 };

extern atomic_ulong corrupt_count;

// system.c
void set_up_system(void);  // file systems, modules, console
const char* parameter(const char* name, const char* fallback);
unsigned long number(const char* name, unsigned long fallback);
void say(const char* format, ...) __attribute__((format(printf, 1, 2)));  // one line
void corrupt(const char* format, ...) __attribute__((format(printf, 1, 2)));
void die(const char* what) __attribute__((noreturn));
void start_thread(void* (*run)(void*), void* argument);
void print_dmesg(bool all);
void end_system(int how) __attribute__((noreturn));  // reboot(2)'s command
void watch_power_button(void);

// clock.c
int64_t now_ns(int clock);
void sleep_until(int64_t monotonic_ns);
void start_watching_clocks(void);
unsigned long take_gap_us(void);     // the longest since the last call
unsigned long longest_gap_us(void);  // since the last forget_gap
void forget_gap(void);
unsigned long steps_back(void);

/// Spreads work over time: next() sleeps until one more piece of `bytes` is due.
struct pace {
  int64_t due;
  int64_t interval;
};
struct pace make_pace(unsigned long bytes, unsigned long kib_per_second);
void next_piece(struct pace* pace);

// memory.c
void start_memory(unsigned long mib, unsigned workers, unsigned long rate_kib);
unsigned long pages_done(void);
unsigned long verify_memory(void);  // pages looked at

// disk.c
void start_disk(const char* path, unsigned long mib, unsigned long rate_kib);
unsigned long blocks_done(void);
unsigned long verify_disk(void);  // blocks looked at
