// The guest's consoles at our end: where its output goes, and what is typed back. Output is
// written by a thread of its own, in order and without loss, so a stuck terminal stalls at most a
// guest that goes on printing, and never a pause or a move. HostEvents reads what is typed.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "vmm/machine.h"
#include "vmm/sys/unique_fd.h"

namespace godwit::node {

struct ConsoleConfig {
  enum class Kind { kStdio, kNone, kFile } kind = Kind::kStdio;
  std::string path;  // for kFile: appended to
};

/// Where both consoles of a guest go.
struct ConsoleConfigs {
  ConsoleConfig serial;
  ConsoleConfig hvc = {ConsoleConfig::Kind::kNone, {}};
  /// What is typed is for one of them.
  bool read_stdin() const {
    return serial.kind == ConsoleConfig::Kind::kStdio || hvc.kind == ConsoleConfig::Kind::kStdio;
  }
};

/// "stdio", "none" or "file:PATH"; std::invalid_argument with the reason otherwise.
ConsoleConfig parse_console(const std::string& text);

/// Takes the guest's output. write() from any thread.
class ConsoleOutput {
 public:
  /// Opens the file, if it is one. Throws std::runtime_error.
  explicit ConsoleOutput(const ConsoleConfig& config);
  /// For tests: writes to `fd`.
  explicit ConsoleOutput(sys::UniqueFd fd);
  /// Writes out what is left, for at most two seconds if nobody reads.
  ~ConsoleOutput();
  ConsoleOutput(const ConsoleOutput&) = delete;
  ConsoleOutput& operator=(const ConsoleOutput&) = delete;

  /// Blocks while more than 64 KiB wait; during hurry(true) for a millisecond at most. What does
  /// not end a line may wait for more to be written with, two milliseconds at most: a UART's bytes
  /// come one by one, each an exit of the guest, and none should also wake a thread and a reader.
  void write(std::span<const std::byte> bytes);
  /// For the time in which the vCPUs must be able to stop at once, a move above all. Bytes do not
  /// wait for more then: what a guest printed here is out before it runs elsewhere.
  void hurry(bool on);

 private:
  void run();
  /// False when nothing more can ever be written.
  bool write_out(std::span<const std::byte> bytes);

  sys::UniqueFd owned_;
  int fd_ = -1;  // -1: output goes nowhere
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<std::byte> pending_;
  bool hurry_ = false;
  bool line_ended_ = false;
  bool writing_ = false;
  bool broken_ = false;
  bool closing_ = false;
  std::thread thread_;
};

/// Both consoles of a guest.
class Consoles {
 public:
  /// Throws std::runtime_error.
  explicit Consoles(const ConsoleConfigs& configs);

  /// What a machine of this guest prints into; this must outlive it.
  vmm::ConsoleSink sink();
  void hurry(bool on);
  /// What is typed goes to the virtio console.
  bool hvc_is_typed_to() const { return hvc_is_typed_to_; }

 private:
  ConsoleOutput serial_;
  ConsoleOutput hvc_;
  const bool hvc_is_typed_to_;
};

/// Finds the escape in what is typed: Ctrl-A x quits, Ctrl-A Ctrl-A (or Ctrl-A a) is one Ctrl-A,
/// Ctrl-A before anything else is dropped with it.
class EscapeFilter {
 public:
  struct Result {
    std::vector<std::byte> bytes;  // for the guest
    bool quit = false;
  };
  Result take(std::span<const std::byte> typed);

 private:
  bool escaped_ = false;
};

}  // namespace godwit::node
