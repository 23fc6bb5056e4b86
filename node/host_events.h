// What comes from the host's side while a guest runs: bytes on stdin and signals. One thread reads
// both, holds the terminal in raw mode while this process is in its foreground, and calls back.
#pragma once

#include <csignal>
#include <cstddef>
#include <functional>
#include <memory>
#include <span>
#include <thread>
#include <vector>

#include "node/console.h"
#include "node/terminal.h"
#include "vmm/sys/event_fd.h"

namespace godwit::node {

class HostEvents {
 public:
  /// All are called from the thread of HostEvents and must not throw.
  struct Callbacks {
    std::function<std::size_t(std::span<const std::byte>)> input;  // returns how many it took
    std::function<void()> quit;                                    // Ctrl-A x
    std::function<void(int)> signal;  // SIGINT, SIGTERM, SIGHUP, SIGQUIT
  };

  /// Blocks those signals in this thread and all it starts later, so that only HostEvents sees
  /// them. Call before the first thread is started.
  static void block_signals();

  /// With `read_stdin` false only signals are watched. Throws std::system_error.
  HostEvents(bool read_stdin, Callbacks callbacks);
  /// Stops reading and restores the terminal.
  ~HostEvents();
  HostEvents(const HostEvents&) = delete;
  HostEvents& operator=(const HostEvents&) = delete;

 private:
  void run();
  void take_signal();
  void take_input();
  void pass_on();
  void enter_terminal();

  Callbacks callbacks_;
  sys::UniqueFd signals_;
  sys::EventFd stop_;
  bool reading_;            // stdin has not ended and may be read
  const bool is_terminal_;  // stdin
  bool hinted_ = false;
  std::unique_ptr<RawTerminal> raw_;
  EscapeFilter escape_;
  std::vector<std::byte> typed_;  // not taken by the guest yet
  std::thread thread_;
};

}  // namespace godwit::node
