// How both ends of a move come to connected queue pairs: the source offers some on the port that
// has the address of the connection and, where asked to, on further ports; the destination answers
// for those that it has a port on the same network for. Failures of a further port leave it out,
// failures of the first throw RdmaError.
#pragma once

#include <span>
#include <vector>

#include "migration/protocol.h"
#include "migration/rdma_channel.h"
#include "migration/wire.h"

namespace godwit::migration {

using RdmaEndpoints = RdmaChannel::Endpoints;

struct RdmaOffer {
  unsigned ports = 1;        // at most, up to kMaxRdmaPorts
  unsigned queue_pairs = 0;  // of a port, up to kMaxQueuePairs; 0: by what its link carries
  PeerMay peer_may = PeerMay::kNothing;
  RdmaDevices open = {};  // devices to use rather than to open once more
};

/// Source: not connected yet; by port, the first that of `tcp_socket`.
RdmaEndpoints offer_endpoints(int tcp_socket, const RdmaOffer& offer);
std::vector<RdmaAddress> addresses_of(const RdmaEndpoints& endpoints);
/// Destination: connected to what was offered.
RdmaEndpoints answer_endpoints(int tcp_socket, std::span<const RdmaAddress> offered);
/// Source: of those offered the ones that were answered and can be reached, connected.
RdmaEndpoints connect_endpoints(Wire& wire, RdmaEndpoints offered,
                                std::span<const RdmaAddress> answered);
/// The numbers of their ports, ascending, as in Begin.
std::vector<unsigned> ports_of(const RdmaEndpoints& endpoints);

}  // namespace godwit::migration
