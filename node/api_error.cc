#include <nlohmann/json.hpp>

#include "node/control_api.h"

namespace godwit::node {

ApiResponse api_error(unsigned status, const std::string& why) {
  const nlohmann::json body{{"error", why}};
  return {status, body.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace)};
}

}  // namespace godwit::node
