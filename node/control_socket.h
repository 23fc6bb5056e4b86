// Where a guest's control socket lives, and who holds it. A guest's name is taken while a process
// listens on its socket; a socket nobody listens on is left over from a dead process and replaced.
#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

#include "vmm/sys/unique_fd.h"

namespace godwit::node {

/// /run/godwit for root, else $XDG_RUNTIME_DIR/godwit. Throws std::runtime_error when there is
/// neither.
std::string runtime_directory();

/// Path of the guest's socket: NAME itself when it contains a '/', else NAME.sock in the directory.
std::string socket_of(const std::string& name);

/// Why that is no guest name ("1-64 of [A-Za-z0-9._-], ..."); empty if it is one.
std::string name_complaint(const std::string& name);

/// Makes the runtime directory, if the socket is to be there; throws std::runtime_error when there
/// is no directory for it.
void require_socket_directory(const std::string& path);

/// Is somebody listening on that socket?
bool socket_is_live(const std::string& path);

/// Paths of all sockets (*.sock) in the runtime directory that somebody listens on, sorted.
std::vector<std::string> live_sockets();

/// A listening control socket, mode 0600, removed from the file system on destruction.
class ControlSocket {
 public:
  /// Claims `path`; a stale socket is replaced. Throws std::runtime_error with one line when
  /// somebody (`who`: "a guest named web1") is already running there or the path is no use.
  ControlSocket(const std::string& path, const std::string& who);
  ~ControlSocket();
  ControlSocket(const ControlSocket&) = delete;
  ControlSocket& operator=(const ControlSocket&) = delete;

  const std::string& path() const { return path_; }
  /// From now on the socket is called `path`; a socket that is there is replaced, at once. Throws
  /// std::runtime_error.
  void rename(const std::string& path);
  /// The listening descriptor; moved out once, to the server.
  sys::UniqueFd take_listener() { return std::move(listener_); }

 private:
  std::string path_;
  ino_t inode_ = 0;  // another process's socket may have taken the path since
  sys::UniqueFd listener_;
};

}  // namespace godwit::node
