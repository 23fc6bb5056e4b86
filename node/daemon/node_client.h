// Talks to a node's API: over its UNIX socket, or over TCP with TLS. Calls block, each bounded in
// time from resolving the name to the last byte of the answer; any thread may call.
#pragma once

#include <chrono>
#include <memory>
#include <mutex>
#include <nlohmann/json_fwd.hpp>
#include <string>

#include "migration/tls/tls.h"
#include "node/http_call.h"

namespace godwit::node {

class NodeClient {
 public:
  /// `address`: HOST:PORT, or the path of a UNIX socket (it contains a '/'). `tls`: for TCP; null
  /// is plain HTTP. `name`: what the node's certificate must say; empty for any that the CA signed.
  /// Connects to nothing yet. Throws std::invalid_argument for what is no address.
  NodeClient(const std::string& address, std::shared_ptr<const tls::Context> tls,
             const std::string& name = {});
  ~NodeClient();
  NodeClient(const NodeClient&) = delete;
  NodeClient& operator=(const NodeClient&) = delete;

  const std::string& address() const { return address_; }

  /// The answer to a request; `body` null for none; `timeout` not negative. Throws
  /// ClientError.
  /// A GET may use the connection of the last one again.
  nlohmann::json request(const std::string& method, const std::string& target,
                         const nlohmann::json& body, std::chrono::milliseconds timeout) const;

 private:
  class Resolver;

  std::unique_ptr<ByteStream> connect(const Deadline& deadline) const;
  std::unique_ptr<ByteStream> take_cached() const;

  std::string address_;
  std::shared_ptr<const tls::Context> tls_;
  std::string name_;
  std::string who_;
  std::shared_ptr<Resolver> resolver_;  // null for a UNIX socket
  mutable std::mutex mutex_;
  mutable std::unique_ptr<ByteStream> cached_;
};

}  // namespace godwit::node
