// A guest that goes on in another process of this host, with another version of Godwit: the same
// RAM, no page copied. The process that was started first stays as the parent of all later ones, so
// that a shell, systemd or the node still see one process that ends, with its status, when the
// guest does.
#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

#include "vmm/sys/unique_fd.h"

namespace godwit::node {

/// The process that is to have the guest next. One at a time.
class Successor {
 public:
  /// Starts `program` as `receive --predecessor ...` and `words`, with `ram`, a memfd. Throws
  /// std::runtime_error.
  Successor(const std::string& program, const std::vector<std::string>& words, int ram);
  /// Ends it, unless it has the guest.
  ~Successor();
  Successor(const Successor&) = delete;
  Successor& operator=(const Successor&) = delete;

  pid_t pid() const { return pid_; }
  /// The connection over which the guest goes; once.
  sys::UniqueFd take_connection() { return std::move(connection_); }
  /// The guest is its, or may be: from now on it outlives this object.
  void let_go();

 private:
  sys::UniqueFd connection_;
  pid_t pid_ = 0;
  bool ours_ = true;
};

/// What `--predecessor` names.
struct Predecessor {
  sys::UniqueFd connection;
  sys::UniqueFd ram;
};

/// Takes the descriptors that Successor has passed on. Throws std::invalid_argument.
Predecessor take_predecessor(const std::string& text);
/// Blocks until the predecessor has given the terminal and the control socket back, 5 s at most.
void await_predecessor(const sys::UniqueFd& connection);

/// The last thing that main() does: with a successor that has the guest, the first of its line of
/// processes waits for its end and returns that exit code. Else `code`.
int await_successors(int code);

}  // namespace godwit::node
