#include "tests/node/process.h"

#include <fcntl.h>
#include <poll.h>
#include <pty.h>
#include <sys/wait.h>
#include <unistd.h>
#include <utmp.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <stdexcept>

#include "vmm/sys/error.h"

namespace godwit::node {

namespace {

constexpr int kPatienceMs = 20'000;

struct PipeEnds {
  PipeEnds() {
    std::array<int, 2> fds{};
    sys::check(::pipe2(fds.data(), O_CLOEXEC), "pipe2");
    read.reset(fds[0]);
    write.reset(fds[1]);
  }
  sys::UniqueFd read;
  sys::UniqueFd write;
};

[[noreturn]] void exec_godwit(const std::vector<std::string>& words) {
  std::vector<char*> argv{const_cast<char*>("godwit")};
  for (const auto& word : words) argv.push_back(const_cast<char*>(word.c_str()));
  argv.push_back(nullptr);
  ::execv(GODWIT_BINARY, argv.data());
  ::_exit(127);
}

}  // namespace

Process::Process(const std::vector<std::string>& words, Streams streams) {
  PipeEnds in;
  PipeEnds out;
  PipeEnds err;
  int master = -1;
  int slave = -1;
  if (streams != Streams::kPipes) {
    sys::check(::openpty(&master, &slave, nullptr, nullptr, nullptr), "openpty");
    ::fcntl(master, F_SETFD, FD_CLOEXEC);
  }
  pid_ = sys::check(::fork(), "fork");
  if (pid_ == 0) {
    if (streams != Streams::kPipes) {
      ::login_tty(slave);  // a session with the terminal as 0, 1 and 2
    } else {
      ::dup2(in.read.get(), 0);
      ::dup2(out.write.get(), 1);
    }
    if (streams != Streams::kTerminalAll) ::dup2(err.write.get(), 2);
    exec_godwit(words);
  }
  if (streams != Streams::kPipes) {
    ::close(slave);
    in_.reset(master);
    out_.reset(::fcntl(master, F_DUPFD_CLOEXEC, 0));
  } else {
    in_ = std::move(in.write);
    out_ = std::move(out.read);
  }
  err_ = std::move(err.read);
}

Process::~Process() {
  if (pid_ < 0) return;
  ::kill(pid_, SIGKILL);
  ::waitpid(pid_, nullptr, 0);
}

void Process::type(const std::string& text) const {
  sys::check(::write(in_.get(), text.data(), text.size()), "write to godwit");
}

void Process::signal(int number) const { sys::check(::kill(pid_, number), "kill"); }

bool Process::pump(int timeout_ms) {
  std::array<pollfd, 2> fds{
      {{out_ ? out_.get() : -1, POLLIN, 0}, {err_ ? err_.get() : -1, POLLIN, 0}}};
  if (!out_ && !err_) return false;
  ::poll(fds.data(), fds.size(), timeout_ms);
  const auto take = [](const pollfd& ready, sys::UniqueFd& fd, std::string& text) {
    if (ready.revents == 0) return;
    std::array<char, 4096> buffer{};
    const ssize_t count = ::read(fd.get(), buffer.data(), buffer.size());
    if (count > 0) {
      text.append(buffer.data(), static_cast<std::size_t>(count));
    } else if (count == 0 || errno != EINTR) {  // a terminal whose last user has gone says EIO
      fd.reset();
    }
  };
  take(fds[0], out_, out_text_);
  take(fds[1], err_, err_text_);
  return true;
}

bool Process::wait_for(const std::string& text, const std::string& in) {
  const auto start = std::chrono::steady_clock::now();
  while (in.find(text) == std::string::npos) {
    if (std::chrono::steady_clock::now() - start > std::chrono::milliseconds(kPatienceMs))
      return false;
    if (!pump(100)) return in.find(text) != std::string::npos;
  }
  return true;
}

int Process::wait() {
  if (pid_ < 0) throw std::logic_error("this process has been waited for");
  int status = 0;
  const auto start = std::chrono::steady_clock::now();
  for (;;) {
    // With both streams closed pump() does not wait.
    if (!pump(20)) ::poll(nullptr, 0, 20);
    if (::waitpid(pid_, &status, WNOHANG) == pid_) break;
    if (std::chrono::steady_clock::now() - start > std::chrono::milliseconds(kPatienceMs)) {
      throw std::runtime_error("godwit did not end; it said: " + err_text_);
    }
  }
  pid_ = -1;
  for (int i = 0; i < 100 && pump(0); ++i) {
  }
  return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

}  // namespace godwit::node
