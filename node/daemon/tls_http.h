// The HTTP server over TLS, a part of godwit_tls.so.
#pragma once

#include <memory>

#include "migration/tls/tls.h"
#include "node/control_server.h"

namespace godwit::node {

/// Its function "godwit_tls_http": as ControlServer's constructor; the result may outlive `module`.
using TlsHttp = HttpServer* (*)(const tls::Module& module, sys::UniqueFd listener,
                                ApiHandler handler, const ServerLimits& limits);

}  // namespace godwit::node
