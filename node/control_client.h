// Talks to one guest's control API. Each call opens a connection of its own, blocks, and is bounded
// in time; objects may be used from several threads.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

#include "node/http_call.h"

namespace godwit::node {

class ControlClient {
 public:
  static constexpr int kForEver = -1;
  static constexpr int kDefaultTimeoutMs = 10'000;

  /// `name`: a guest's name or the path of its socket. Connects to nothing yet.
  explicit ControlClient(const std::string& name);

  const std::string& name() const { return name_; }
  const std::string& path() const { return path_; }

  nlohmann::json get(const char* target) const;
  nlohmann::json put(const char* target, const nlohmann::json& body) const;
  nlohmann::json remove(const char* target) const;
  /// Waits for the answer as long as it takes.
  nlohmann::json post(const char* target, const nlohmann::json& body) const;

 private:
  nlohmann::json request(const char* method, const char* target, const std::string& body,
                         int timeout_ms) const;

  std::string name_;
  std::string path_;
};

}  // namespace godwit::node
