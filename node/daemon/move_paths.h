// What moves to each peer were seen to take, learnt from those that ended well: it corrects the
// configured rate of the link, and adds what no rate tells. Kept in a file over a restart. Guarded
// by the node's lock.
#pragma once

#include <map>
#include <nlohmann/json_fwd.hpp>
#include <string>

namespace godwit::node {

struct MovePath {
  double rate = 0;   // MB/s of guest memory; 0: not known
  double setup = 0;  // seconds of a move in which no memory is copied
};

class MovePaths {
 public:
  explicit MovePaths(std::string file);

  /// From the report of a move that completed, at full speed.
  void learn(const std::string& peer, const nlohmann::json& report);
  MovePath to(const std::string& peer) const;

 private:
  const std::string file_;
  std::map<std::string, MovePath> paths_;
};

}  // namespace godwit::node
