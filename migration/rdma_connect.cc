#include "migration/rdma_connect.h"

#include <algorithm>
#include <utility>

namespace godwit::migration {

namespace {

/// One queue pair's work is done by one engine of a NIC: fast links need several to be filled.
unsigned queue_pairs_for(const RdmaPort& port) {
  const double gigabits = port.gigabits_per_second();
  return gigabits >= 400 ? 4 : gigabits >= 200 ? 2 : 1;
}

void add_endpoint(RdmaEndpoints& endpoints, const RdmaPort& port, unsigned number,
                  PeerMay peer_may) {
  endpoints.push_back(std::make_unique<RdmaEndpoint>(port, peer_may));
  endpoints.back()->set_port(number);
}

void drop_port(RdmaEndpoints& endpoints, unsigned port) {
  std::erase_if(endpoints, [&](const auto& endpoint) { return endpoint->address().port == port; });
}

std::span<const RdmaAddress> of_port(std::span<const RdmaAddress> addresses, unsigned port) {
  const auto begin = std::ranges::lower_bound(addresses, port, {}, &RdmaAddress::port);
  const auto end = std::ranges::upper_bound(addresses, port, {}, &RdmaAddress::port);
  return {begin, end};
}

/// A port here that is on the network of the peer's and not among `used`.
const RdmaPort* find_port(std::span<const RdmaPort> ports, const RdmaAddress& peer,
                          std::span<const RdmaPort> used) {
  const auto found = std::ranges::find_if(ports, [&](const RdmaPort& port) {
    return port.ethernet() == peer.ethernet && port.reaches(peer.gid, peer.network_bits) &&
           std::ranges::find(used, port) == used.end();
  });
  return found == ports.end() ? nullptr : &*found;
}

/// Whether the peer's queue pair answers.
void probe(Wire& wire, RdmaEndpoint& endpoint) {
  endpoint.post_marker();
  while (endpoint.reap_sends() == 0) {
    endpoint.arm();
    if (endpoint.reap_sends() != 0) return;
    wire.wait_for(endpoint.event_fd(), -1);
    endpoint.drain_events();
  }
}

}  // namespace

RdmaEndpoints offer_endpoints(int tcp_socket, const RdmaOffer& offer) {
  std::vector<RdmaPort> ports{rdma_port_of(tcp_socket, offer.open)};
  if (offer.ports > 1) {
    RdmaDevices open = offer.open;
    open.push_back(ports[0].device);
    for (RdmaPort& port : active_rdma_ports(open)) {
      if (ports.size() < offer.ports && port != ports[0]) ports.push_back(std::move(port));
    }
  }
  RdmaEndpoints endpoints;
  for (unsigned number = 0; number < ports.size(); ++number) {
    const unsigned pairs =
        offer.queue_pairs > 0 ? offer.queue_pairs : queue_pairs_for(ports[number]);
    for (unsigned i = 0; i < std::min(pairs, kMaxQueuePairs); ++i) {
      add_endpoint(endpoints, ports[number], number, offer.peer_may);
    }
  }
  return endpoints;
}

std::vector<RdmaAddress> addresses_of(const RdmaEndpoints& endpoints) {
  std::vector<RdmaAddress> addresses;
  for (const auto& endpoint : endpoints) addresses.push_back(endpoint->address());
  return addresses;
}

RdmaEndpoints answer_endpoints(int tcp_socket, std::span<const RdmaAddress> offered) {
  std::vector<RdmaPort> used{rdma_port_of(tcp_socket)};
  std::vector<RdmaPort> ports;
  if (offered.back().port > 0) ports = active_rdma_ports({used[0].device});
  RdmaEndpoints endpoints;
  for (unsigned number = 0; number < kMaxRdmaPorts; ++number) {
    const auto peers = of_port(offered, number);
    if (peers.empty()) continue;
    if (number > 0) {
      const RdmaPort* const port = find_port(ports, peers.front(), used);
      if (port == nullptr) continue;
      used.push_back(*port);
    }
    try {
      for (const RdmaAddress& peer : peers) {
        add_endpoint(endpoints, used.back(), number, PeerMay::kWrite);
        endpoints.back()->connect(peer);
      }
    } catch (const RdmaError&) {
      if (number == 0) throw;
      drop_port(endpoints, number);
    }
  }
  return endpoints;
}

RdmaEndpoints connect_endpoints(Wire& wire, RdmaEndpoints offered,
                                std::span<const RdmaAddress> answered) {
  RdmaEndpoints endpoints;
  for (unsigned number = 0; number < kMaxRdmaPorts; ++number) {
    const auto peers = of_port(answered, number);
    RdmaEndpoints ours;
    for (auto& endpoint : offered) {
      if (endpoint && endpoint->address().port == number) ours.push_back(std::move(endpoint));
    }
    if (peers.empty()) continue;
    if (peers.size() != ours.size())
      throw ChannelError("the peer answered for other queue pairs than were offered");
    try {
      for (std::size_t i = 0; i < ours.size(); ++i) {
        ours[i]->connect(peers[i]);
        probe(wire, *ours[i]);
      }
      std::ranges::move(ours, std::back_inserter(endpoints));
    } catch (const RdmaError&) {
      if (number == 0) throw;
    }
  }
  return endpoints;
}

std::vector<unsigned> ports_of(const RdmaEndpoints& endpoints) {
  std::vector<unsigned> ports;
  for (const auto& endpoint : endpoints) {
    const unsigned port = endpoint->address().port;
    if (ports.empty() || ports.back() != port) ports.push_back(port);
  }
  return ports;
}

}  // namespace godwit::migration
