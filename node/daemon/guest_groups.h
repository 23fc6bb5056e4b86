// Control groups (cgroup v2) of guests, below the group that the node was started in: what they use
// is theirs in the kernel's books, can be limited there, and a guest that runs out of memory is not
// the node. GROUP/node is the node's own, GROUP/NAME.guest one guest's.
#pragma once

#include <sys/types.h>

#include <string>

namespace godwit::node {

class GuestGroups {
 public:
  /// Moves this process into its own group, if it is alone in the one it was started in and may
  /// change that, as in a service with Delegate=yes; otherwise guests stay where the node is.
  GuestGroups();

  /// The group that all are below; empty if there are none.
  const std::string& path() const { return path_; }
  void enter(const std::string& name, pid_t pid) const;
  /// When it has ended.
  void leave(const std::string& name) const;

 private:
  std::string group_of(const std::string& name) const { return path_ + "/" + name + ".guest"; }

  std::string path_;
};

}  // namespace godwit::node
