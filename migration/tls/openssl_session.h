// An SSL object on a socket of the caller's, and what OpenSSL's results mean. Part of
// godwit_tls.so.
#pragma once

#include <openssl/err.h>
#include <openssl/ssl.h>

#include <cerrno>
#include <memory>
#include <string>

#include "migration/tls/openssl_context.h"
#include "migration/tls/stream.h"

namespace godwit::tls {

class Session {
 public:
  enum class Result { kDone, kWantRead, kWantWrite, kFarewell, kFailed };  // the last with errno

  Session(SSL_CTX* context, int socket, std::string who);

  SSL* ssl() const { return ssl_.get(); }
  const std::string& who() const { return who_; }
  /// The handshake is over.
  void establish() { established_ = true; }

  /// Calls OpenSSL once. Throws Error when it is TLS that fails.
  template <typename Call>
  Result run(Call call) {
    ::ERR_clear_error();
    errno = 0;
    const int result = call(ssl_.get());
    return result > 0 ? Result::kDone : meaning_of(result);
  }

 private:
  Result meaning_of(int result) const;
  void explain() const;

  std::unique_ptr<int> socket_;  // where the BIO of ssl_ finds it
  SslPtr ssl_;
  std::string who_;
  bool established_ = false;
};

/// The peer ends the connection with this alert (RFC 8446, 6).
Error alert_error(int alert, const std::string& who);

}  // namespace godwit::tls
