// What OpenSSL encrypts and decrypts. Part of godwit_tls.so.
#pragma once

#include <array>
#include <cstddef>

#include "migration/tls/openssl_session.h"

namespace godwit::tls {

class OpenSslStream : public Stream {
 public:
  /// Its handshake is over.
  explicit OpenSslStream(Session session);

  ssize_t send(std::span<const iovec> parts) override;
  ssize_t receive(std::span<const iovec> parts) override;
  bool readable() override;
  bool in_kernel() const override { return false; }

 private:
  std::span<const std::byte> next_record(std::span<const iovec> parts);

  Session session_;
  std::array<std::byte, SSL3_RT_MAX_PLAIN_LENGTH> gathered_;
};

}  // namespace godwit::tls
