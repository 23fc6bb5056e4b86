#include "node/succession.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <spawn.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <fstream>
#include <stdexcept>

#include "node/exit_codes.h"
#include "vmm/sys/error.h"

namespace godwit::node {

namespace {

constexpr int kPredecessorTimeoutMs = 5000;
constexpr int kChildConnection = 3;
constexpr int kChildRam = 4;

// Of this process, like its children: whether it is the first of its line, and what tells the next
// one that it has let go of everything.
bool is_successor = false;
sys::UniqueFd until_the_end;

/// A copy out of the way of the child's numbers.
sys::UniqueFd high_copy(int fd) {
  return sys::UniqueFd(
      sys::check(::fcntl(fd, F_DUPFD_CLOEXEC, kChildRam + 1), "duplicate a descriptor"));
}

int exit_code_of(int status) {
  return WIFEXITED(status) ? WEXITSTATUS(status) : kExitSignal + WTERMSIG(status);
}

void signal_children(int number) {
  std::ifstream children(fmt::format("/proc/self/task/{}/children", ::gettid()));
  for (pid_t pid = 0; children >> pid;) ::kill(pid, number);
}

}  // namespace

Successor::Successor(const std::string& program, const std::vector<std::string>& words, int ram) {
  std::array<int, 2> ends{};
  sys::check(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends.data()), "socketpair");
  connection_.reset(ends[0]);
  const sys::UniqueFd theirs(ends[1]);
  const sys::UniqueFd their_connection = high_copy(theirs.get());
  const sys::UniqueFd their_ram = high_copy(ram);
  until_the_end = high_copy(connection_.get());

  posix_spawn_file_actions_t files;
  posix_spawnattr_t attributes;
  ::posix_spawn_file_actions_init(&files);
  ::posix_spawnattr_init(&attributes);
  ::posix_spawn_file_actions_adddup2(&files, their_connection.get(), kChildConnection);
  ::posix_spawn_file_actions_adddup2(&files, their_ram.get(), kChildRam);
  sigset_t none;
  sigemptyset(&none);
  ::posix_spawnattr_setsigmask(&attributes, &none);
  ::posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK);
  std::vector<std::string> text{"godwit", "receive", "--predecessor",
                                fmt::format("{},{}", kChildConnection, kChildRam)};
  text.insert(text.end(), words.begin(), words.end());
  std::vector<char*> argv;
  argv.reserve(text.size() + 1);
  for (std::string& word : text) argv.push_back(word.data());
  argv.push_back(nullptr);
  const int error =
      ::posix_spawn(&pid_, program.c_str(), &files, &attributes, argv.data(), environ);
  ::posix_spawn_file_actions_destroy(&files);
  ::posix_spawnattr_destroy(&attributes);
  if (error != 0) throw std::runtime_error(fmt::format("{}: {}", program, std::strerror(error)));
}

Successor::~Successor() {
  if (!ours_) return;
  until_the_end.reset();
  ::kill(pid_, SIGKILL);
  ::waitpid(pid_, nullptr, 0);
}

void Successor::let_go() {
  ours_ = false;
  // Of processes between this one and its last successor, too, once they have ended.
  if (!is_successor) ::prctl(PR_SET_CHILD_SUBREAPER, 1);
}

Predecessor take_predecessor(const std::string& text) {
  int connection = -1;
  int ram = -1;
  char end = 0;
  const auto is_open = [](int fd) {
    return fd > STDERR_FILENO && ::fcntl(fd, F_SETFD, FD_CLOEXEC) == 0;
  };
  if (std::sscanf(text.c_str(), "%d,%d%c", &connection, &ram, &end) != 2 || connection == ram ||
      !is_open(connection) || !is_open(ram)) {
    throw std::invalid_argument("is for godwit upgrade to use");
  }
  is_successor = true;
  return {sys::UniqueFd(connection), sys::UniqueFd(ram)};
}

void await_predecessor(const sys::UniqueFd& connection) {
  pollfd end{connection.get(), POLLRDHUP, 0};
  while (::poll(&end, 1, kPredecessorTimeoutMs) < 0 && errno == EINTR) {
  }
}

int await_successors(int code) {
  if (!until_the_end) return code;
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGCHLD);
  sigaddset(&signals, SIGTERM);
  ::pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  until_the_end.reset();
  if (is_successor) return code;  // whoever was first is a parent of the next one, too
  for (;;) {
    int status = 0;
    const pid_t pid = ::waitpid(-1, &status, WNOHANG);
    if (pid > 0) code = exit_code_of(status);
    if (pid < 0 && errno == ECHILD) return code;
    if (pid != 0) continue;
    // A terminal's signals reach the guest's process by themselves.
    if (::sigwaitinfo(&signals, nullptr) == SIGTERM) signal_children(SIGTERM);
  }
}

}  // namespace godwit::node
