#include "node/control_client.h"

#include <fmt/format.h>

#include <chrono>
#include <nlohmann/json.hpp>

#include "node/control_socket.h"

namespace godwit::node {

namespace {

sys::UniqueFd connect_to(const std::string& name, const std::string& path, int timeout_ms) try {
  // What takes as long as it takes is the answer.
  if (timeout_ms < 0) timeout_ms = ControlClient::kDefaultTimeoutMs;
  return connect_unix(path, Deadline(std::chrono::milliseconds(timeout_ms)));
} catch (const ClientError& error) {
  const bool hangs = error.kind() == ClientError::Kind::kTimeout;
  throw ClientError(fmt::format("{}guest {}: {}", hangs ? "" : "no ", name, error.what()),
                    error.kind());
}

}  // namespace

ControlClient::ControlClient(const std::string& name) : name_(name), path_(socket_of(name)) {}

nlohmann::json ControlClient::get(const char* target) const {
  return request("GET", target, "", kDefaultTimeoutMs);
}
nlohmann::json ControlClient::put(const char* target, const nlohmann::json& body) const {
  return request("PUT", target, body.dump(), kDefaultTimeoutMs);
}
nlohmann::json ControlClient::remove(const char* target) const {
  return request("DELETE", target, "", kDefaultTimeoutMs);
}
nlohmann::json ControlClient::post(const char* target, const nlohmann::json& body) const {
  return request("POST", target, body.dump(), kForEver);
}

nlohmann::json ControlClient::request(const char* method, const char* target,
                                      const std::string& body, int timeout_ms) const {
  const Deadline deadline{std::chrono::milliseconds(timeout_ms)};
  const std::string who = "guest " + name_;
  SocketStream stream(connect_to(name_, path_, timeout_ms), deadline);
  return json_of(http_call(stream, deadline, {method, target, body}, who), who);
}

}  // namespace godwit::node
