// What PID 1 has to do: file systems, modules, the console, the kernel's log, power.
#include <errno.h>
#include <fcntl.h>
#include <linux/input.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/klog.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <termios.h>
#include <unistd.h>

#include "workload.h"

atomic_ulong corrupt_count;
static char command_line[4096];
static pthread_mutex_t console_lock = PTHREAD_MUTEX_INITIALIZER;

static void print_line(const char* start, const char* format, va_list arguments) {
  char line[1024];
  int size = snprintf(line, sizeof line, "%s", start);
  size += vsnprintf(line + size, sizeof line - (size_t)size - 1, format, arguments);
  if (size > (int)sizeof line - 2) size = sizeof line - 2;
  line[size++] = '\n';
  pthread_mutex_lock(&console_lock);
  for (int at = 0; at < size;) {
    const ssize_t n = write(1, line + at, (size_t)(size - at));
    if (n <= 0) break;
    at += (int)n;
  }
  pthread_mutex_unlock(&console_lock);
}

void say(const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  print_line("", format, arguments);
  va_end(arguments);
}

void corrupt(const char* format, ...) {
  if (atomic_fetch_add(&corrupt_count, 1) >= 20) return;
  va_list arguments;
  va_start(arguments, format);
  print_line("CORRUPT ", format, arguments);
  va_end(arguments);
}

void die(const char* what) {
  say("CORRUPT %s: %s", what, strerror(errno));
  end_system(RB_POWER_OFF);
}

void start_thread(void* (*run)(void*), void* argument) {
  pthread_t thread;
  if (pthread_create(&thread, NULL, run, argument) != 0) die("cannot start a thread");
}

static void load_modules(void) {
  FILE* order = fopen("/modules/order", "r");
  if (order == NULL) return;
  char path[256];
  while (fgets(path, sizeof path, order) != NULL) {
    path[strcspn(path, "\n")] = 0;
    const int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0 || (syscall(SYS_finit_module, file, "", 0) != 0 && errno != EEXIST)) {
      say("CORRUPT cannot load %s: %s", path, strerror(errno));
    }
    close(file);
  }
  fclose(order);
}

static void read_command_line(void) {
  const int file = open("/proc/cmdline", O_RDONLY | O_CLOEXEC);
  const ssize_t size = read(file, command_line, sizeof command_line - 1);
  close(file);
  if (size > 0) command_line[size] = 0;
  command_line[strcspn(command_line, "\n")] = 0;
}

void set_up_system(void) {
  mkdir("/proc", 0755);
  mkdir("/sys", 0755);
  mkdir("/dev", 0755);
  mount("proc", "/proc", "proc", 0, NULL);
  mount("sys", "/sys", "sysfs", 0, NULL);
  mount("dev", "/dev", "devtmpfs", 0, NULL);
  struct termios terminal;
  if (tcgetattr(0, &terminal) == 0) {
    terminal.c_lflag &= ~(tcflag_t)ECHO;
    tcsetattr(0, TCSANOW, &terminal);
  }
  read_command_line();
  load_modules();
}

const char* parameter(const char* name, const char* fallback) {
  static char copy[sizeof command_line];
  const size_t length = strlen(name);
  strcpy(copy, command_line);
  for (char* word = strtok(copy, " "); word != NULL; word = strtok(NULL, " ")) {
    if (strncmp(word, name, length) == 0 && word[length] == '=') return strdup(word + length + 1);
  }
  return fallback;
}

unsigned long number(const char* name, unsigned long fallback) {
  const char* text = parameter(name, NULL);
  return text == NULL ? fallback : strtoul(text, NULL, 10);
}

void end_system(int how) {
  pthread_mutex_lock(&console_lock);  // the last line is a whole one
  tcdrain(1);
  sync();
  reboot(how);
  for (;;) pause();
}

// Words of the kernel's log that no healthy machine shows.
static bool is_complaint(const char* line) {
  static const char* const words[] = {
      "stall",
      "lockup",
      "Marking clocksource",
      "clocksource watchdog",
      "hung_task",
      "blocked for more than",
      "BUG:",
      "WARNING:",
      "Oops",
      "Call Trace",
      "unstable",
      "I/O error",
      "skew is too large",
      "timed out",
      "nobody cared",
      "time went backwards",
      "Spurious",
      "Machine check",
      "unchecked MSR",
      "soft lockup",
  };
  for (size_t i = 0; i < sizeof words / sizeof *words; ++i) {
    if (strcasestr(line, words[i]) != NULL) return true;
  }
  return false;
}

void print_dmesg(bool all) {
  enum { kReadAll = 3, kSizeBuffer = 10 };
  const int size = klogctl(kSizeBuffer, NULL, 0);
  char* log = size > 0 ? malloc((size_t)size + 1) : NULL;
  const int length = log != NULL ? klogctl(kReadAll, log, size) : -1;
  if (length < 0) {
    say("CORRUPT cannot read the kernel's log: %s", strerror(errno));
    free(log);
    return;
  }
  log[length] = 0;
  unsigned long lines = 0, complaints = 0;
  char* rest = NULL;
  for (char* line = strtok_r(log, "\n", &rest); line != NULL; line = strtok_r(NULL, "\n", &rest)) {
    const bool complaint = is_complaint(line);
    ++lines;
    complaints += complaint;
    if (all || complaint) say("dmesg: %s", line);
  }
  say("dmesg end lines=%lu complaints=%lu", lines, complaints);
  free(log);
}

static void* wait_for_button(void* unused) {
  const int events = open("/dev/input/event0", O_RDONLY | O_CLOEXEC);
  struct input_event event;
  while (events >= 0 && read(events, &event, sizeof event) == sizeof event) {
    if (event.type != EV_KEY || event.code != KEY_POWER || event.value != 1) continue;
    say("power button");
    end_system(RB_POWER_OFF);
  }
  return unused;
}

void watch_power_button(void) { start_thread(wait_for_button, NULL); }
