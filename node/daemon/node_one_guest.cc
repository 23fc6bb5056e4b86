// One guest of Node, for a person: looked at, and stopped.
#include <fmt/format.h>

#include <csignal>

#include "node/daemon/json_fields.h"
#include "node/daemon/node.h"

namespace godwit::node {

using nlohmann::json;

/// The guest's control socket, and `looked_at` what the node knows of it.
std::string Node::socket_of_guest(const std::string& name, json& looked_at) {
  const std::lock_guard lock(mutex_);
  const ManagedGuest* guest = find(name);
  if (guest == nullptr || guest->gone) {
    throw std::out_of_range(fmt::format("no guest called {} is at {}", name, config_.name));
  }
  looked_at = guest_json(*guest, seconds());
  return guest->api;
}

json Node::guest(const std::string& name) {
  json answer;
  const std::string api = socket_of_guest(name, answer);
  answer["status"] = nullptr;
  try {
    answer["status"] = ask_guest(NodeClient(api, nullptr), "/v1/status");
  } catch (const ClientError&) {  // it is to come, ends, or hangs: "state" tells
  }
  return answer;
}

void Node::stop(const std::string& name, bool force) {
  json looked_at;
  const std::string api = socket_of_guest(name, looked_at);
  if (looked_at["state"] == "reserved") {
    throw Conflict(fmt::format("{} has not come yet, only its place is kept", name));
  }
  fmt::print(stderr, "godwit: node: {} is to {}\n", name, force ? "end at once" : "shut down");
  try {
    NodeClient(api, nullptr).request("PUT", "/v1/stop", {{"force", force}}, kGuestAnswers);
  } catch (const ClientError& error) {
    if (error.kind() == ClientError::Kind::kRefused) throw Conflict(error.what());
    if (!force) throw Conflict(fmt::format("{} does not answer: only --force ends it", name));
    const std::lock_guard lock(mutex_);
    if (ManagedGuest* guest = find(name)) guest->process.signal(SIGKILL);
  }
}

}  // namespace godwit::node
