// What the binary asks of godwit_tls.so.
#pragma once

#include <openssl/types.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "migration/tls/stream.h"
#include "migration/tls/tls.h"

namespace godwit::tls {

/// Who encrypts and decrypts after the handshake: we, or the kernel where it has TLS (its module
/// "tls") and the cipher that was agreed upon.
enum class Records { kByUs, kByKernel };

/// What our own certificate says.
struct OwnCertificate {
  std::vector<std::string> names;  // the common name, then the DNS names among the alternatives
  std::int64_t valid_until = 0;    // Unix seconds
};

class Module {
 public:
  Module() = default;
  virtual ~Module() = default;
  Module(const Module&) = delete;
  Module& operator=(const Module&) = delete;

  virtual OwnCertificate own_certificate() const = 0;
  /// For the end that has connected. `name`: what the peer's certificate must say: exactly its
  /// common name, or one of its alternative DNS names or IP addresses; empty for any that the CA
  /// signed. `who` begins messages. The socket must outlive what comes of it, which may outlive
  /// this object.
  virtual std::unique_ptr<Handshake> connect(int socket, const std::string& name,
                                             const std::string& who, Records records) const = 0;
  /// For the end that has accepted: the peer must show a certificate that the CA signed.
  virtual std::unique_ptr<Handshake> accept(int socket, const std::string& who,
                                            Records records) const = 0;
  /// For other parts of godwit_tls.so that accept.
  virtual SSL_CTX* server() const = 0;
};

/// Its function "godwit_tls". Throws std::runtime_error about the files, or when the caller's
/// version is another.
using Entry = Module* (*)(const char* version, const Files& files);

}  // namespace godwit::tls
