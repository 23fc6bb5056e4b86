#include "node/daemon/hook.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstring>
#include <thread>
#include <vector>

namespace godwit::node {

namespace {

constexpr std::chrono::milliseconds kLook{10};

/// 0, or the error of posix_spawn().
int spawn(const std::string& command, const std::string& argument, pid_t& pid) {
  posix_spawn_file_actions_t files;
  posix_spawnattr_t attributes;
  ::posix_spawn_file_actions_init(&files);
  ::posix_spawnattr_init(&attributes);
  ::posix_spawn_file_actions_addopen(&files, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
  ::posix_spawn_file_actions_addclosefrom_np(&files, STDERR_FILENO + 1);
  sigset_t none;
  sigemptyset(&none);
  ::posix_spawnattr_setsigmask(&attributes, &none);
  ::posix_spawnattr_setpgroup(&attributes, 0);
  ::posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGMASK);
  std::vector<std::string> words{"sh", "-c", command, "godwit-hook", argument};
  std::vector<char*> argv;
  argv.reserve(words.size() + 1);
  for (std::string& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  const int error = ::posix_spawn(&pid, "/bin/sh", &files, &attributes, argv.data(), environ);
  ::posix_spawnattr_destroy(&attributes);
  ::posix_spawn_file_actions_destroy(&files);
  return error;
}

}  // namespace

std::string run_hook(const std::string& command, const std::string& argument,
                     std::chrono::milliseconds limit) {
  pid_t pid = 0;
  if (const int error = spawn(command, argument, pid); error != 0) {
    return fmt::format("the hook did not start: {}", std::strerror(error));
  }
  // Not counting a suspend, which may be just what the hook is for.
  const auto end = std::chrono::steady_clock::now() + limit;
  int status = 0;
  for (;;) {
    const pid_t done = ::waitpid(pid, &status, WNOHANG);
    if (done == pid) break;
    if (done < 0 && errno != EINTR) return fmt::format("waitpid: {}", std::strerror(errno));
    if (std::chrono::steady_clock::now() > end) {
      ::kill(-pid, SIGKILL);
      ::waitpid(pid, &status, 0);
      return fmt::format("the hook took more than {:g} s and was ended",
                         std::chrono::duration<double>(limit).count());
    }
    std::this_thread::sleep_for(kLook);
  }
  if (WIFSIGNALED(status)) return fmt::format("the hook ended by signal {}", WTERMSIG(status));
  if (WEXITSTATUS(status) != 0) {
    return fmt::format("the hook exited with {}", WEXITSTATUS(status));
  }
  return {};
}

}  // namespace godwit::node
