// What the binary asks of godwit_tls.so. OpenSSL costs a process 1 MiB and more before it is used,
// and guests never use it: so it lives in a module that only a node, or who talks to one, loads.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "node/control_server.h"
#include "node/daemon/tls.h"
#include "node/http_call.h"

namespace godwit::node {

/// What our own certificate says.
struct OwnCertificate {
  std::vector<std::string> names;  // the common name, then the DNS names among the alternatives
  std::int64_t valid_until = 0;    // Unix seconds
};

class TlsModule {
 public:
  TlsModule() = default;
  virtual ~TlsModule() = default;
  TlsModule(const TlsModule&) = delete;
  TlsModule& operator=(const TlsModule&) = delete;

  virtual OwnCertificate own_certificate() const = 0;
  /// As ControlServer's constructor. May outlive this object.
  virtual std::unique_ptr<HttpServer> serve(sys::UniqueFd listener, ApiHandler handler,
                                            const ServerLimits& limits) const = 0;
  /// Shakes hands on a connected socket. `name`: what the peer's certificate must say; empty for
  /// any that the CA signed. `who` begins messages. Throws ClientError. May outlive this object.
  virtual std::unique_ptr<ByteStream> connect(sys::UniqueFd fd, const std::string& name,
                                              const Deadline& deadline,
                                              const std::string& who) const = 0;
};

/// The module's one function, "godwit_tls". Throws std::runtime_error about the files, or when the
/// caller's version is another.
using TlsEntry = TlsModule* (*)(const char* version, const TlsFiles& files);

}  // namespace godwit::node
