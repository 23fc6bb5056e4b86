#include "node/local_node.h"

#include <fmt/format.h>

#include <filesystem>
#include <nlohmann/json.hpp>

#include "node/control_socket.h"

namespace godwit::node {

namespace {

std::string path_of(const Options& options) {
  if (!options.has("node")) return runtime_directory() + "/node.api";
  const std::string path = options.text("node");
  return path.find('/') == std::string::npos ? "./" + path : path;
}

}  // namespace

std::string guest_target(const std::string& name) {
  if (const std::string why = name_complaint(name); !why.empty()) throw UsageError(why);
  return "/v1/guests/" + name;
}

Options& LocalNode::add_option(Options& options) {
  return options.value("node", "SOCKET", "of the node, instead of the one of this host");
}

LocalNode::LocalNode(const Options& options) : client_(path_of(options), nullptr) {}

nlohmann::json LocalNode::request(const std::string& method, const std::string& target,
                                  const nlohmann::json& body,
                                  std::chrono::milliseconds timeout) const {
  try {
    return client_.request(method, target, body, timeout);
  } catch (const ClientError& error) {
    if (error.kind() != ClientError::Kind::kNobody) throw;
    throw ClientError(
        fmt::format("{}; `godwit node` starts one, --node says where it serves", error.what()));
  }
}

std::string LocalNode::socket_of_guest(const std::string& name) const {
  if (const std::string why = name_complaint(name); !why.empty()) throw UsageError(why);
  return (std::filesystem::path(client_.address()).parent_path() / (name + ".sock")).string();
}

}  // namespace godwit::node
