// A handshake by OpenSSL. Part of godwit_tls.so.
#pragma once

#include <memory>
#include <string>

#include "migration/tls/module.h"
#include "migration/tls/openssl_session.h"
#include "migration/tls/traffic_keys.h"

namespace godwit::tls {

class OpenSslHandshake : public Handshake {
 public:
  enum class Side { kClient, kServer };

  /// `name`: as of Module.
  OpenSslHandshake(SSL_CTX* context, Side side, int socket, std::string name,
                   const std::string& who, Records records);

  short step() override;
  std::unique_ptr<Stream> finish() override;

 private:
  void require_name() const;
  std::unique_ptr<Stream> give_to_kernel() const;

  const Side side_;
  const int socket_;
  const std::string name_;
  const Records records_;
  TrafficSecrets secrets_;
  Session session_;
};

}  // namespace godwit::tls
