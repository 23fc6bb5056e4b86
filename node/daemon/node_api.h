// The node's API: HTTP requests to operations of Node. docs/api.md is its reference. It knows no
// sockets; the same handler serves the UNIX socket and peers' TLS connections.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "node/control_api.h"
#include "node/daemon/node.h"
#include "node/daemon/workers.h"

namespace godwit::node {

/// Every method and target that node_api() answers; {guest} and {id} stand for what is asked for.
std::vector<std::pair<std::string, std::string>> node_api_routes();

/// `node` and `workers` must outlive it: what blocks runs on a worker. Never throws.
ApiHandler node_api(Node& node, Workers& workers);

}  // namespace godwit::node
