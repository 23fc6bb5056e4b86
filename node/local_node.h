// The node of this host, for the commands that talk to it: where it serves, and what to do when it
// does not. Used by one thread at a time, but for request().
#pragma once

#include <chrono>
#include <nlohmann/json_fwd.hpp>
#include <string>

#include "node/daemon/node_client.h"
#include "node/options.h"

namespace godwit::node {

constexpr std::chrono::seconds kNodeAnswers{10};

/// What a node's API calls a guest. Throws UsageError for what is no name.
std::string guest_target(const std::string& name);

class LocalNode {
 public:
  /// Adds --node.
  static Options& add_option(Options& options);
  explicit LocalNode(const Options& options);

  /// As NodeClient::request(); where no node answers, what() says how to start one.
  nlohmann::json request(const std::string& method, const std::string& target,
                         const nlohmann::json& body, std::chrono::milliseconds timeout) const;
  /// The control socket of its guest `name`.
  std::string socket_of_guest(const std::string& name) const;

 private:
  NodeClient client_;
};

}  // namespace godwit::node
