#include "node/terminal.h"

#include <termios.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <csignal>
#include <cstdlib>

#include "vmm/sys/error.h"

namespace godwit::node {

namespace {

// Read by a signal handler: set before `g_raw_fd`, which says whether they hold.
termios g_saved;
std::atomic<int> g_raw_fd = -1;

constexpr std::array kFatal{SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT};

extern "C" void restore_and_die(int signal) {
  restore_terminal();
  ::raise(signal);  // SA_RESETHAND: now the default, as soon as this handler returns
}

void restore_on_every_exit() {
  static const bool once = [] {
    std::atexit(restore_terminal);
    struct sigaction action {};
    action.sa_handler = restore_and_die;
    action.sa_flags = static_cast<int>(SA_RESETHAND | SA_ONSTACK);
    for (const int signal : kFatal) {
      struct sigaction old {};
      ::sigaction(signal, nullptr, &old);
      if (old.sa_handler == SIG_DFL) ::sigaction(signal, &action, nullptr);  // a sanitizer's stays
    }
    return true;
  }();
  static_cast<void>(once);
}

}  // namespace

RawTerminal::RawTerminal(int fd) {
  sys::check(::tcgetattr(fd, &g_saved), "tcgetattr");
  restore_on_every_exit();
  termios raw = g_saved;
  ::cfmakeraw(&raw);
  raw.c_oflag |= OPOST;  // our own messages end in "\n", the guest's in "\r\n": both look right
  g_raw_fd = fd;
  sys::check(::tcsetattr(fd, TCSANOW, &raw), "tcsetattr");
}

RawTerminal::~RawTerminal() { restore_terminal(); }

void restore_terminal() {
  const int fd = g_raw_fd.exchange(-1);
  if (fd < 0) return;
  // From the background, tcsetattr() would stop us; the shell has put its own modes back by then.
  if (in_foreground(fd)) ::tcsetattr(fd, TCSANOW, &g_saved);
}

bool in_foreground(int fd) { return ::isatty(fd) == 1 && ::tcgetpgrp(fd) == ::getpgrp(); }

}  // namespace godwit::node
