// The control API of one guest: HTTP requests to operations of GuestControl, and their outcomes to
// JSON. It knows no sockets. docs/api.md is its reference.
#pragma once

#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "node/guest_control.h"

namespace godwit::node {

struct ApiRequest {
  std::string method;  // "GET", "PUT", ...
  std::string target;  // "/v1/status"
  std::string body;    // JSON or empty
  /// Common name of the client's certificate; empty without TLS.
  std::string peer = {};
};

struct ApiResponse {
  unsigned status = 200;  // HTTP status
  std::string body;       // of the content type; ends in a newline on the wire
  std::string content_type = "application/json";
};

/// Takes the answer of one request; exactly once, from any thread, perhaps much later.
using ApiReply = std::function<void(ApiResponse)>;
using ApiHandler = std::function<void(const ApiRequest&, ApiReply)>;

/// {"error": why} with that status; bytes that are no UTF-8 are replaced.
ApiResponse api_error(unsigned status, const std::string& why);

/// Every method and target that guest_api() answers.
std::vector<std::pair<std::string, std::string>> guest_api_routes();

/// The handler of a guest's API; `guest` must outlive it. Never throws.
ApiHandler guest_api(GuestControl& guest);

}  // namespace godwit::node
