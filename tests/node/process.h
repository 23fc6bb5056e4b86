// A real `godwit` process in tests: its standard streams on pipes or a pseudo-terminal, what it
// printed so far, its end. One thread; killed if it still runs when this object goes.
#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

#include "vmm/sys/unique_fd.h"

namespace godwit::node {

class Process {
 public:
  enum class Streams { kPipes, kTerminal, kTerminalAll };

  /// Starts GODWIT_BINARY; with kTerminal, stdin and stdout are a terminal of its own session,
  /// with kTerminalAll stderr is, too.
  explicit Process(const std::vector<std::string>& words, Streams streams = Streams::kPipes);
  ~Process();
  Process(const Process&) = delete;
  Process& operator=(const Process&) = delete;

  pid_t pid() const { return pid_; }
  int terminal() const { return in_.get(); }
  void type(const std::string& text) const;
  void close_stdin() { in_.reset(); }
  void signal(int number) const;

  /// Waits until stdout (stderr) contains `text`; false when it ended without it, or after 20 s.
  bool printed(const std::string& text) { return wait_for(text, out_text_); }
  bool complained(const std::string& text) { return wait_for(text, err_text_); }
  /// Takes what it prints within that time.
  void read_for(int timeout_ms) { pump(timeout_ms); }
  /// Waits for its end: the exit code, or -signal.
  int wait();
  const std::string& out() const { return out_text_; }
  const std::string& err() const { return err_text_; }

 private:
  bool wait_for(const std::string& text, const std::string& in);
  /// Reads what there is, waiting at most `timeout_ms`; false when both streams have ended.
  bool pump(int timeout_ms);

  pid_t pid_ = -1;
  sys::UniqueFd in_;  // the pipe to stdin, or the terminal's master
  sys::UniqueFd out_;
  sys::UniqueFd err_;
  std::string out_text_;
  std::string err_text_;
};

}  // namespace godwit::node
