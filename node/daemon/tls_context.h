// OpenSSL's side of a TlsContext. Part of godwit_tls.so.
#pragma once

#include <openssl/types.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "node/daemon/tls.h"

namespace godwit::node {

struct FreeSsl {
  void operator()(SSL_CTX* context) const;
  void operator()(SSL* session) const;
  void operator()(X509* certificate) const;
};
using SslContextPtr = std::unique_ptr<SSL_CTX, FreeSsl>;
using SslPtr = std::unique_ptr<SSL, FreeSsl>;
using CertificatePtr = std::unique_ptr<X509, FreeSsl>;

class TlsContexts {
 public:
  /// Throws std::runtime_error with one line that names the file at fault.
  explicit TlsContexts(const TlsFiles& files);

  /// For the side that accepts: the peer must show a certificate that the CA signed.
  SSL_CTX* server() const { return server_.get(); }
  /// For the side that connects: likewise. Its name is checked by has_name().
  SSL_CTX* client() const { return client_.get(); }

 private:
  SslContextPtr server_;
  SslContextPtr client_;
};

/// The peer's certificate; null before the end of the handshake.
CertificatePtr peer_certificate(const SSL* session);
/// The (first) common name of its subject, or "".
std::string common_name(const X509* certificate);
/// Its common name, then the DNS names among its alternative names.
std::vector<std::string> names_of(const X509* certificate);
/// The end of its validity, Unix seconds.
std::int64_t valid_until(const X509* certificate);
/// Is one of its names exactly `name`? No wildcards.
bool has_name(const X509* certificate, const std::string& name);

}  // namespace godwit::node
