// Serves an API over HTTP/1.1 on a UNIX socket, in one thread of its own. Clients are not trusted
// with our time: requests are bounded in size, reading and writing one are bounded in time, and
// when too many connections are open the longest idle one is closed.
#pragma once

#include <memory>

#include "node/control_api.h"
#include "vmm/sys/unique_fd.h"

namespace godwit::node {

struct ServerLimits {
  unsigned request_timeout_ms = 10'000;  // to send one request, or to take one answer
  unsigned header_bytes = 8 * 1024;
  unsigned body_bytes = 64 * 1024;
  unsigned connections = 32;
};

class ControlServer {
 public:
  /// `listener`: a listening UNIX socket. `handler` runs on the server's thread and must not block.
  ControlServer(sys::UniqueFd listener, ApiHandler handler, ServerLimits limits = {});
  /// Gives answers that are due up to a second to leave, then closes everything.
  ~ControlServer();
  ControlServer(const ControlServer&) = delete;
  ControlServer& operator=(const ControlServer&) = delete;

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace godwit::node
