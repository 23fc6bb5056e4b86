// A guest's process as the node sees it: started in a session of its own, so that it outlives the
// node, and watched by its pid. One thread at a time.
#pragma once

#include <sys/types.h>

#include <optional>
#include <string>
#include <vector>

namespace godwit::node {

class GuestProcess {
 public:
  /// Starts this same binary with `words`, for the guest `name`; its output goes to the file `log`,
  /// which is appended to. Throws std::runtime_error.
  static GuestProcess start(const std::string& name, const std::vector<std::string>& words,
                            const std::string& log);
  /// One that an earlier node started.
  static GuestProcess adopt(pid_t pid) { return {pid, false}; }

  pid_t pid() const { return pid_; }
  /// Looks, without waiting. Once false it stays so, and exit_status() may know more.
  bool alive();
  /// Of waitpid(2); empty while it lives, or if it was not our child.
  std::optional<int> exit_status() const { return status_; }
  void signal(int number);

 private:
  GuestProcess(pid_t pid, bool ours) : pid_(pid), ours_(ours) {}

  pid_t pid_;
  bool ours_;
  bool ended_ = false;
  std::optional<int> status_;
};

}  // namespace godwit::node
