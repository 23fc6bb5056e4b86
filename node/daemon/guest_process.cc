#include "node/daemon/guest_process.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstring>
#include <stdexcept>

namespace godwit::node {

namespace {

struct SpawnSettings {
  SpawnSettings() {
    ::posix_spawn_file_actions_init(&files);
    ::posix_spawnattr_init(&attributes);
  }
  ~SpawnSettings() {
    ::posix_spawn_file_actions_destroy(&files);
    ::posix_spawnattr_destroy(&attributes);
  }
  posix_spawn_file_actions_t files;
  posix_spawnattr_t attributes;
};

}  // namespace

GuestProcess GuestProcess::start(const std::string& name, const std::vector<std::string>& words,
                                 const std::string& log) {
  SpawnSettings settings;
  ::posix_spawn_file_actions_addopen(&settings.files, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
  ::posix_spawn_file_actions_addopen(&settings.files, STDOUT_FILENO, log.c_str(),
                                     O_WRONLY | O_CREAT | O_APPEND, 0640);
  ::posix_spawn_file_actions_adddup2(&settings.files, STDOUT_FILENO, STDERR_FILENO);
  // Asio accepts without SOCK_CLOEXEC: a guest that was started just then kept the connection of
  // some client open, who waited for its end.
  ::posix_spawn_file_actions_addclosefrom_np(&settings.files, STDERR_FILENO + 1);
  sigset_t none;
  sigemptyset(&none);
  ::posix_spawnattr_setsigmask(&settings.attributes, &none);
  ::posix_spawnattr_setflags(&settings.attributes, POSIX_SPAWN_SETSID | POSIX_SPAWN_SETSIGMASK);

  std::vector<std::string> text{"godwit"};
  text.insert(text.end(), words.begin(), words.end());
  std::vector<char*> argv;
  argv.reserve(text.size() + 1);
  for (std::string& word : text) argv.push_back(word.data());
  argv.push_back(nullptr);
  pid_t pid = 0;
  const int error = ::posix_spawn(&pid, "/proc/self/exe", &settings.files, &settings.attributes,
                                  argv.data(), environ);
  if (error != 0) {
    throw std::runtime_error(fmt::format("cannot start a process for {} with its log {}: {}", name,
                                         log, std::strerror(error)));
  }
  return {pid, true};
}

bool GuestProcess::alive() {
  if (ended_) return false;
  if (ours_) {
    int status = 0;
    const pid_t done = ::waitpid(pid_, &status, WNOHANG);
    if (done == pid_) status_ = status;
    ended_ = done == pid_ || (done < 0 && errno == ECHILD);
  } else {
    ended_ = pid_ <= 0 || (::kill(pid_, 0) != 0 && errno == ESRCH);
  }
  return !ended_;
}

void GuestProcess::signal(int number) {
  if (alive()) ::kill(pid_, number);
}

}  // namespace godwit::node
