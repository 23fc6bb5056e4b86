#include "node/daemon/tls_module.h"

#include <fmt/format.h>
#include <openssl/err.h>
#include <openssl/ssl.h>

#include <boost/asio/ssl/context.hpp>
#include <boost/asio/ssl/error.hpp>
#include <boost/beast/ssl/ssl_stream.hpp>
#include <stdexcept>

#include "node/daemon/tls_context.h"
#include "node/daemon/tls_stream.h"
#include "node/http_server.h"

namespace godwit::node {

namespace {

struct Tls {
  static constexpr bool kShakesHands = true;
  using Stream = beast::ssl_stream<AcceptedStream>;  // gathers small writes to one record

  explicit Tls(SSL_CTX* shared) : context((::SSL_CTX_up_ref(shared), shared)) {}

  Stream wrap(AcceptedSocket socket) { return Stream(AcceptedStream(std::move(socket)), context); }

  template <typename Handler>
  static void shake_hands(Stream& stream, Handler handler) {
    stream.async_handshake(asio::ssl::stream_base::server, std::move(handler));
  }
  static std::string peer(Stream& stream) {
    const CertificatePtr certificate = peer_certificate(stream.native_handle());
    return certificate == nullptr ? "" : common_name(certificate.get());
  }
  static bool is_plain_http(const error_code& error) {
    return error.category() == asio::error::get_ssl_category() &&
           ERR_GET_REASON(static_cast<unsigned long>(error.value())) == SSL_R_HTTP_REQUEST;
  }

  asio::ssl::context context;
};

class OpenSsl : public TlsModule {
 public:
  explicit OpenSsl(const TlsFiles& files) : contexts_(files) {}

  OwnCertificate own_certificate() const override {
    const X509* const certificate = ::SSL_CTX_get0_certificate(contexts_.server());
    return {names_of(certificate), valid_until(certificate)};
  }

  std::unique_ptr<HttpServer> serve(sys::UniqueFd listener, ApiHandler handler,
                                    const ServerLimits& limits) const override {
    return std::make_unique<HttpServerOver<Tls>>(Tls(contexts_.server()), std::move(listener),
                                                 std::move(handler), limits);
  }

  std::unique_ptr<ByteStream> connect(sys::UniqueFd fd, const std::string& name,
                                      const Deadline& deadline,
                                      const std::string& who) const override {
    return std::make_unique<TlsStream>(std::move(fd), contexts_.client(), name, deadline, who);
  }

 private:
  TlsContexts contexts_;
};

}  // namespace

}  // namespace godwit::node

extern "C" __attribute__((visibility("default"))) godwit::node::TlsModule* godwit_tls(
    const char* version, const godwit::node::TlsFiles& files) {
  if (std::string_view(version) != GODWIT_VERSION) {
    throw std::runtime_error(
        fmt::format("godwit_tls.so is of version {}, not {}", GODWIT_VERSION, version));
  }
  return new godwit::node::OpenSsl(files);
}
