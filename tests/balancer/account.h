// An account of its own of what the decisions of one round do together, so that a slip in the
// balancer's bookkeeping shows: rules move by move, capacities and limits when all are applied.
#pragma once

#include <map>
#include <set>
#include <string>
#include <vector>

#include "balancer/decision.h"
#include "balancer/policy.h"
#include "balancer/view.h"

namespace godwit::balancer {

class Account {
 public:
  Account(const ClusterView& view, const PolicyConfig& policy);

  void apply(const Decision& decision);
  // After the last decision: what the hosts have taken upon themselves in all.
  void close();

  // One line a violation; empty when all is well.
  const std::vector<std::string>& violations() const { return violations_; }
  std::size_t guests_left() const { return guests_.size(); }

 private:
  struct End {
    HostView host;
    std::vector<const GuestView*> arrivals, departures;
  };
  void check(bool holds, const std::string& rule, const Decision& decision);
  void move(const GuestView& guest, End& from, End& to, const Decision& decision);
  void close_end(const End& end, bool is_self);
  void close_groups();

  const ClusterView& view_;
  const PolicyConfig& policy_;
  End self_;
  std::map<HostId, End> peers_;
  std::map<GuestId, const GuestView*> guests_, offers_;
  std::map<std::uint32_t, std::set<HostId>> together_;  // where the guests of a group are
  std::set<HostId> woken_;
  std::map<unsigned, std::pair<double, double>> plans_;  // benefit, cost
  bool drains_ = false;
  std::vector<std::string> violations_;
};

}  // namespace godwit::balancer
