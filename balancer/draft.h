// The plan under construction: this host and the asked peers with every move decided so far charged
// to both ends. Shared by the goals in decide.cc, relieve.cc, empty.cc and even.cc; not part of the
// interface. Exchanges are in exchange.cc.
#pragma once

#include <optional>
#include <vector>

#include "balancer/cost.h"
#include "balancer/decision.h"
#include "balancer/policy.h"
#include "balancer/view.h"

namespace godwit::balancer {

struct Draft {
  // Peers with senseless figures, this host itself and second answers of a peer are left out;
  // guests with such figures or listed twice are pinned, offers listed twice are not taken.
  Draft(const ClusterView& from, const PolicyConfig& settings);

  const ClusterView& view;
  const PolicyConfig& policy;
  HostView self;
  std::vector<HostView> peers;
  std::vector<GuestView> guests;  // still here
  std::vector<Decision> decisions;
  unsigned plan = 1;

  double load(const HostView& host) const { return host.forecast.mean / host.capacity; }
  // Rules, thresholds, limits and damping: may this guest go there now? A drain is a person's wish
  // and a plan that is carried out bit by bit: neither limits of moves in flight nor the way back
  // hold it up.
  bool admits(const HostView& peer, const GuestView& guest) const;
  Decision describe(const GuestView& guest, const HostView& peer, Cause cause, double benefit,
                    const MoveCost& cost) const;
  Decision stay(Action action, Cause cause, Obstacle obstacle, double benefit = 0,
                double cost = 0) const;
  // Charges the move to both ends and takes the guest off `guests`.
  void commit(const Decision& decision, std::size_t guest, std::size_t peer);

  // An exchange: one of ours goes to a peer, one of its offers comes.
  struct Exchange {
    std::size_t guest = 0, peer = 0, offer = 0;
  };
  const GuestView& offer(const Exchange& it) const { return peers[it.peer].offers[it.offer]; }
  // May these two change places now? The offer need not fit below this host's threshold.
  bool exchangeable(const Exchange& exchange) const;
  MoveCost cost(const Exchange& exchange) const;  // of both moves
  Decision describe(const Exchange& exchange, Cause cause, double benefit) const;
  void commit(const Decision& decision, const Exchange& exchange);

 private:
  bool listed_once(GuestId offer) const;
};

MoveCost cost_between(const GuestView& guest, const HostView& source, const HostView& target);

void relieve(Draft& draft);                  // overload
void empty_host(Draft& draft, Cause cause);  // consolidation and drain
void even_out(Draft& draft);                 // balance
void wake_ahead(Draft& draft);               // overload that is to come

}  // namespace godwit::balancer
