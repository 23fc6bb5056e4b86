#include "node/daemon/guest_groups.h"

#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <iterator>

namespace godwit::node {

namespace {

constexpr const char* kMount = "/sys/fs/cgroup";

std::string contents(const std::string& path) {
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), {}};
}

/// One write(2), which is a request here.
bool write_to(const std::string& path, const std::string& text) {
  std::ofstream file(path);
  return static_cast<bool>(file << text << std::flush);
}

/// Kernel's Documentation/admin-guide/cgroup-v2.rst: the line "0::PATH" of /proc/self/cgroup.
std::string own_group() {
  std::ifstream lines("/proc/self/cgroup");
  for (std::string line; std::getline(lines, line);) {
    if (line.rfind("0::/", 0) == 0) return kMount + line.substr(3);
  }
  return {};
}

}  // namespace

GuestGroups::GuestGroups() {
  const std::string pid = std::to_string(::getpid());
  const std::string group = own_group();
  const std::string own = group + "/node";
  if (group.empty() || contents(group + "/cgroup.procs") != pid + "\n") return;
  if (::mkdir(own.c_str(), 0755) != 0 && errno != EEXIST) return;
  // Controllers can be enabled for the groups below only while no process is in this one.
  if (!write_to(own + "/cgroup.procs", pid)) return;
  path_ = group;
  for (const char* controller : {"cpu", "memory", "io"}) {
    write_to(group + "/cgroup.subtree_control", std::string("+") + controller);
  }
  std::error_code ignored;
  for (const auto& entry : std::filesystem::directory_iterator(group, ignored)) {
    // Of guests that ended without a node; those of others are not empty.
    if (entry.path().extension() == ".guest") ::rmdir(entry.path().c_str());
  }
}

void GuestGroups::enter(const std::string& name, pid_t pid) const {
  if (path_.empty()) return;
  ::mkdir(group_of(name).c_str(), 0755);
  write_to(group_of(name) + "/cgroup.procs", std::to_string(pid));
}

void GuestGroups::leave(const std::string& name) const {
  if (!path_.empty()) ::rmdir(group_of(name).c_str());
}

}  // namespace godwit::node
