#include "migration/tls/openssl_handshake.h"

#include <fmt/format.h>
#include <poll.h>

#include <utility>

#include "migration/tls/kernel_stream.h"
#include "migration/tls/openssl_stream.h"

namespace godwit::tls {

OpenSslHandshake::OpenSslHandshake(SSL_CTX* context, Side side, int socket, std::string name,
                                   const std::string& who, Records records)
    : side_(side),
      socket_(socket),
      name_(std::move(name)),
      records_(records),
      session_(context, socket, who) {
  if (records == Records::kByKernel) secrets_.listen(session_.ssl());
  if (side == Side::kClient) {
    ::SSL_set_connect_state(session_.ssl());
  } else {
    ::SSL_set_accept_state(session_.ssl());
  }
}

short OpenSslHandshake::step() {
  switch (session_.run(::SSL_do_handshake)) {
    case Session::Result::kWantRead:
      return POLLIN;
    case Session::Result::kWantWrite:
      return POLLOUT;
    case Session::Result::kDone:
      session_.establish();
      require_name();
      return 0;
    default:
      throw Error(Error::Kind::kLost,
                  fmt::format("lost contact with {} in the TLS handshake", session_.who()));
  }
}

void OpenSslHandshake::require_name() const {
  const CertificatePtr certificate = peer_certificate(session_.ssl());
  if (certificate != nullptr && (name_.empty() || has_name(certificate.get(), name_))) return;
  throw Error(Error::Kind::kName,
              fmt::format("{} is refused: its certificate says \"{}\", not \"{}\"", session_.who(),
                          certificate == nullptr ? "" : common_name(certificate.get()), name_));
}

std::unique_ptr<Stream> OpenSslHandshake::finish() {
  if (auto stream = give_to_kernel()) return stream;
  TrafficSecrets::ignore(session_.ssl());
  return std::make_unique<OpenSslStream>(std::move(session_));
}

/// Null where the kernel does not take it, or OpenSSL has read ahead.
std::unique_ptr<Stream> OpenSslHandshake::give_to_kernel() const {
  const SSL* const ssl = session_.ssl();
  if (records_ == Records::kByUs || ::SSL_has_pending(ssl) != 0) return nullptr;
  const auto client = secrets_.client_key(ssl);
  const auto server = secrets_.server_key(ssl);
  if (!client || !server) return nullptr;
  const bool ours_is_client = side_ == Side::kClient;
  return kernel_stream(socket_, ours_is_client ? *client : *server,
                       ours_is_client ? *server : *client, session_.who());
}

}  // namespace godwit::tls
