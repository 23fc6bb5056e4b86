// The node's API: HTTP requests to operations of Node. docs/api.md is its reference. It knows no
// sockets; the same handler serves the UNIX socket and peers' TLS connections.
#pragma once

#include "node/control_api.h"
#include "node/daemon/node.h"
#include "node/daemon/workers.h"

namespace godwit::node {

/// `node` and `workers` must outlive it: what blocks runs on a worker. Never throws.
ApiHandler node_api(Node& node, Workers& workers);

}  // namespace godwit::node
