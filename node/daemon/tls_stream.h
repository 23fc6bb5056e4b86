// The client's end of a TLS connection, as a stream for http_call(). Belongs to one thread at a
// time.
#pragma once

#include <memory>
#include <string>

#include "migration/tls/stream.h"
#include "migration/tls/tls.h"
#include "node/http_call.h"

namespace godwit::node {

class TlsStream : public ByteStream {
 public:
  /// Shakes hands on the connected `fd`. `name`: what the peer's certificate must say; empty for
  /// any that the CA signed. `who` begins messages. Throws ClientError; so does what follows when
  /// TLS fails or the server refuses our certificate.
  TlsStream(sys::UniqueFd fd, const tls::Context& context, const std::string& name,
            const Deadline& deadline, const std::string& who);

  std::size_t read_some(std::span<std::byte> to, boost::system::error_code& error) override;
  std::size_t write_some(std::span<const std::byte> from,
                         boost::system::error_code& error) override;
  void set_deadline(const Deadline& deadline) override { deadline_ = deadline; }
  bool quiet() const override;

 private:
  template <typename Call>
  std::size_t transfer(short events, boost::system::error_code& error, Call call);

  sys::UniqueFd fd_;
  std::unique_ptr<tls::Stream> stream_;
  Deadline deadline_;
};

}  // namespace godwit::node
