#include "node/daemon/tls_http.h"

#include <openssl/err.h>
#include <openssl/ssl.h>

#include <boost/asio/ssl/context.hpp>
#include <boost/asio/ssl/error.hpp>
#include <boost/beast/ssl/ssl_stream.hpp>

#include "migration/tls/module.h"
#include "migration/tls/openssl_context.h"
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
    const tls::CertificatePtr certificate = tls::peer_certificate(stream.native_handle());
    return certificate == nullptr ? "" : tls::common_name(certificate.get());
  }
  static bool is_plain_http(const error_code& error) {
    return error.category() == asio::error::get_ssl_category() &&
           ERR_GET_REASON(static_cast<unsigned long>(error.value())) == SSL_R_HTTP_REQUEST;
  }

  asio::ssl::context context;
};

}  // namespace

}  // namespace godwit::node

extern "C" __attribute__((visibility("default"))) godwit::node::HttpServer* godwit_tls_http(
    const godwit::tls::Module& module, godwit::sys::UniqueFd listener,
    godwit::node::ApiHandler handler, const godwit::node::ServerLimits& limits) {
  using namespace godwit::node;
  return new HttpServerOver<Tls>(Tls(module.server()), std::move(listener), std::move(handler),
                                 limits);
}
