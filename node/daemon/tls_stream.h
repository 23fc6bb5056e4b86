// The client's end of a TLS connection, as a stream for http_call(). Part of godwit_tls.so.
// Belongs to one thread at a time.
#pragma once

#include <string>

#include "node/daemon/tls_context.h"
#include "node/http_call.h"

namespace godwit::node {

class TlsStream : public ByteStream {
 public:
  /// Shakes hands on the connected, non-blocking `fd`. `name`: what the peer's certificate must
  /// say; empty for any that the CA signed. `who` begins messages. Throws ClientError.
  TlsStream(sys::UniqueFd fd, SSL_CTX* context, const std::string& name, const Deadline& deadline,
            const std::string& who);

  /// In TLS 1.3 the server judges our certificate after our handshake has ended: its refusal is
  /// thrown as ClientError from here.
  std::size_t read_some(std::span<std::byte> to, boost::system::error_code& error) override;
  std::size_t write_some(std::span<const std::byte> from,
                         boost::system::error_code& error) override;
  void set_deadline(const Deadline& deadline) override { deadline_ = deadline; }
  bool quiet() const override;

 private:
  /// Calls OpenSSL until it is done or fails.
  template <typename Call>
  std::size_t run(boost::system::error_code& error, Call call);
  /// Throws what OpenSSL's last error means, if it is about TLS; returns if the connection is gone.
  void explain() const;

  sys::UniqueFd fd_;
  SslPtr ssl_;
  Deadline deadline_;
  std::string who_;
};

}  // namespace godwit::node
