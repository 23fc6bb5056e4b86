// A cluster whose guests ask for the same for ever, run by decide() alone: every node in turn,
// moves done at once. The clock leaps so far between rounds that no cool-down holds a guest: what
// comes to rest here does so because no move pays.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "balancer/decide.h"
#include "balancer/detection.h"
#include "tests/balancer/random_cluster.h"

namespace godwit::balancer {

class StaticCluster {
 public:
  explicit StaticCluster(std::uint64_t seed);

  struct Outcome {
    bool at_rest = false;
    std::size_t rounds = 0, moves = 0;
    std::string log;  // the moves, to read what went round in circles
  };
  Outcome run(std::size_t most_rounds);
  std::size_t guests() const { return count_; }

 private:
  struct Node {
    HostView host;
    std::map<GuestId, GuestView> guests;
    OverloadDetector detector;
  };
  HostView told(const Node& node) const;
  ClusterView view(const Node& node) const;
  void transfer(GuestId guest, Node& from, Node& to);
  std::size_t round(std::string& log);

  RandomCluster random_;
  PolicyConfig policy_;
  std::vector<Node> nodes_;
  std::size_t count_ = 0;
  double now_ = 0;
};

}  // namespace godwit::balancer
