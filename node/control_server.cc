#include "node/control_server.h"

#include "node/daemon/tls_http.h"
#include "node/http_server.h"

namespace godwit::node {

namespace {

struct Plain {
  static constexpr bool kShakesHands = false;
  using Stream = AcceptedStream;
  Stream wrap(AcceptedSocket socket) { return Stream(std::move(socket)); }
};

}  // namespace

ControlServer::ControlServer(sys::UniqueFd listener, ApiHandler handler, ServerLimits limits)
    : server_(std::make_unique<HttpServerOver<Plain>>(Plain(), std::move(listener),
                                                      std::move(handler), limits)) {}

ControlServer::ControlServer(sys::UniqueFd listener, const std::shared_ptr<const tls::Context>& tls,
                             ApiHandler handler, ServerLimits limits) {
  if (tls) {
    const auto serve = reinterpret_cast<TlsHttp>(tls::Context::function("godwit_tls_http"));
    server_.reset(serve(tls->module(), std::move(listener), std::move(handler), limits));
  } else {
    server_ = std::make_unique<HttpServerOver<Plain>>(Plain(), std::move(listener),
                                                      std::move(handler), limits);
  }
}

ControlServer::~ControlServer() = default;

}  // namespace godwit::node
