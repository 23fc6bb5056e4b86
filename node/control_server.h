// Serves an API over HTTP/1.1 on a UNIX or TCP socket, there with TLS and client certificates if
// wanted, in one thread of its own. Clients are not trusted with our time: requests are bounded in
// size, the handshake, reading and writing are bounded in time, and when too many connections are
// open one that is still in its handshake is closed, else the longest idle one.
#pragma once

#include <memory>

#include "node/control_api.h"
#include "vmm/sys/unique_fd.h"

namespace godwit::tls {
class Context;
}

namespace godwit::node {

struct ServerLimits {
  unsigned request_timeout_ms = 10'000;  // for the handshake, to send a request, to take an answer
  unsigned header_bytes = 8 * 1024;
  unsigned body_bytes = 64 * 1024;
  unsigned connections = 32;
};

/// Runs from construction to destruction.
class HttpServer {
 public:
  HttpServer() = default;
  virtual ~HttpServer() = default;
  HttpServer(const HttpServer&) = delete;
  HttpServer& operator=(const HttpServer&) = delete;
};

class ControlServer {
 public:
  /// `listener`: a listening UNIX or TCP socket. `handler` runs on the server's thread and must not
  /// block.
  ControlServer(sys::UniqueFd listener, ApiHandler handler, ServerLimits limits = {});
  /// With `tls`, a client must show a certificate that its CA signed; others are refused in the
  /// handshake. Null: plain HTTP.
  ControlServer(sys::UniqueFd listener, const std::shared_ptr<const tls::Context>& tls,
                ApiHandler handler, ServerLimits limits = {});
  /// Gives answers that are due up to a second to leave, then closes everything.
  ~ControlServer();
  ControlServer(const ControlServer&) = delete;
  ControlServer& operator=(const ControlServer&) = delete;

 private:
  std::unique_ptr<HttpServer> server_;
};

}  // namespace godwit::node
