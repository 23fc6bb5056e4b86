#include "node/host_events.h"

#include <fmt/format.h>
#include <poll.h>
#include <pthread.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdio>

#include "vmm/sys/error.h"

namespace godwit::node {

namespace {

constexpr std::array kWatched{SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGCONT};
constexpr int kRetryMs = 10;  // until the guest has room for more input
constexpr std::size_t kTypeAhead =
    4096;  // bytes typed to a guest that does not listen; more is lost

sigset_t watched_set() {
  sigset_t set;
  sigemptyset(&set);
  for (const int signal : kWatched) sigaddset(&set, signal);
  return set;
}

sys::UniqueFd open_signals() {
  const sigset_t set = watched_set();
  return sys::UniqueFd(sys::check(::signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK), "signalfd"));
}

}  // namespace

void HostEvents::block_signals() {
  const sigset_t set = watched_set();
  ::pthread_sigmask(SIG_BLOCK, &set, nullptr);
  ::signal(SIGPIPE, SIG_IGN);
}

HostEvents::HostEvents(bool read_stdin, Callbacks callbacks)
    : callbacks_(std::move(callbacks)),
      signals_(open_signals()),
      reading_(read_stdin),
      is_terminal_(::isatty(STDIN_FILENO) == 1) {
  if (reading_ && is_terminal_) enter_terminal();
  thread_ = std::thread([this] { run(); });
}

HostEvents::~HostEvents() {
  stop_.signal();
  thread_.join();
}

void HostEvents::enter_terminal() {
  raw_.reset();
  if (!in_foreground(STDIN_FILENO)) return;  // reading would stop us; SIGCONT tries again
  raw_ = std::make_unique<RawTerminal>(STDIN_FILENO);
  if (!hinted_) fmt::print(stderr, "godwit: Ctrl-A x quits, Ctrl-A Ctrl-A sends Ctrl-A\n");
  hinted_ = true;
}

void HostEvents::run() {
  for (;;) {
    // A pipe waits until the guest takes its bytes; a terminal is always read, for the escape's
    // sake.
    const bool may_read = reading_ && (is_terminal_ ? raw_ != nullptr : typed_.empty());
    std::array<pollfd, 3> fds{{{stop_.fd(), POLLIN, 0},
                               {signals_.get(), POLLIN, 0},
                               {may_read ? STDIN_FILENO : -1, POLLIN, 0}}};
    if (::poll(fds.data(), fds.size(), typed_.empty() ? -1 : kRetryMs) < 0 && errno != EINTR)
      return;
    if (fds[0].revents != 0) return;
    if (fds[1].revents != 0) take_signal();
    if (fds[2].revents != 0) take_input();
    if (!typed_.empty()) pass_on();
  }
}

void HostEvents::take_signal() {
  signalfd_siginfo info{};
  if (::read(signals_.get(), &info, sizeof info) != static_cast<ssize_t>(sizeof info)) return;
  const int signal = static_cast<int>(info.ssi_signo);
  if (signal != SIGCONT) return callbacks_.signal(signal);
  if (!reading_ || !is_terminal_) return;
  try {
    enter_terminal();
  } catch (const std::system_error&) {
    reading_ = false;  // the terminal has gone
  }
}

void HostEvents::take_input() {
  std::array<std::byte, 512> buffer{};
  const ssize_t count = ::read(STDIN_FILENO, buffer.data(), buffer.size());
  if (count < 0 && (errno == EINTR || errno == EAGAIN)) return;
  if (count <= 0) {
    reading_ = false;
    return;
  }
  const auto bytes = std::span(buffer).first(static_cast<std::size_t>(count));
  if (!is_terminal_) {
    typed_.assign(bytes.begin(), bytes.end());
    return;
  }
  EscapeFilter::Result result = escape_.take(bytes);
  if (typed_.size() < kTypeAhead) {
    typed_.insert(typed_.end(), result.bytes.begin(), result.bytes.end());
  }
  if (result.quit) callbacks_.quit();
}

void HostEvents::pass_on() {
  const std::size_t taken = std::min(callbacks_.input(typed_), typed_.size());
  typed_.erase(typed_.begin(), typed_.begin() + static_cast<std::ptrdiff_t>(taken));
}

}  // namespace godwit::node
