// The controlling terminal in raw mode, put back however the process ends: destructor, exit() and
// fatal signals included. At most one at a time.
#pragma once

namespace godwit::node {

class RawTerminal {
 public:
  /// Puts the terminal `fd` into raw mode (output processing stays on). Throws std::system_error.
  explicit RawTerminal(int fd);
  ~RawTerminal();
  RawTerminal(const RawTerminal&) = delete;
  RawTerminal& operator=(const RawTerminal&) = delete;
};

/// Puts the terminal back if one is raw now. From any thread or signal handler.
void restore_terminal();

/// True when `fd` is a terminal and this process is in its foreground, so that it may be read.
bool in_foreground(int fd);

}  // namespace godwit::node
