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
  /// Starts this same binary with `words`; its output goes to the file `log`, which is appended to.
  /// Where cgroup v2 can be written it gets the group godwit/`name`. Throws std::runtime_error.
  static GuestProcess start(const std::string& name, const std::vector<std::string>& words,
                            const std::string& log);
  /// One that an earlier node started.
  static GuestProcess adopt(const std::string& name, pid_t pid) { return {name, pid, false}; }

  pid_t pid() const { return pid_; }
  /// Looks, without waiting. Once false it stays so, and exit_status() may know more.
  bool alive();
  /// Of waitpid(2); empty while it lives, or if it was not our child.
  std::optional<int> exit_status() const { return status_; }
  void signal(int number);

 private:
  GuestProcess(std::string name, pid_t pid, bool ours)
      : name_(std::move(name)), pid_(pid), ours_(ours) {}
  void leave_group() const;

  std::string name_;
  pid_t pid_;
  bool ours_;
  bool ended_ = false;
  std::optional<int> status_;
};

}  // namespace godwit::node
