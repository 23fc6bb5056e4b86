// The host's side of a vsock device: a UNIX stream socket at PATH, to which programs connect that
// want to reach the guest, and PATH_PORT, where a program listens that the guest wants to reach.
// The socket's mode is 0600. Owned by Machine; used by the device's thread.
#pragma once

#include <cstdint>
#include <string>

#include "vmm/sys/unique_fd.h"

namespace godwit::devices {

class VsockListener {
 public:
  /// Binds and listens; what a killed process left at the path is replaced. Throws
  /// std::runtime_error with one line for the user: the path is too long, in use, no socket, ...
  explicit VsockListener(std::string path);
  /// Removes the socket.
  ~VsockListener();
  VsockListener(const VsockListener&) = delete;
  VsockListener& operator=(const VsockListener&) = delete;

  int fd() const { return fd_.get(); }
  /// The next program that connected, non-blocking; empty when there is none.
  sys::UniqueFd accept() const;
  /// A connection to the program at PATH_PORT, non-blocking; empty when nobody listens there.
  sys::UniqueFd connect(std::uint32_t port) const;

 private:
  std::string path_;
  sys::UniqueFd fd_;
};

}  // namespace godwit::devices
