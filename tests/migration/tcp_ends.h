// Two ends of a TcpChannel on this machine, over Wires that a test makes.
#pragma once

#include <memory>
#include <utility>
#include <vector>

#include "migration/tcp_channel.h"
#include "tests/migration/channel_suite.h"

namespace godwit::testing {

/// The source's end and the destination's.
using Wires = std::pair<migration::Wire, migration::Wire>;

struct TcpEnds : ChannelEnds {
  explicit TcpEnds(Wires wires, std::vector<Wires> further = {},
                   migration::Compression compression = {})
      : source_wire(std::move(wires.first)), destination_wire(std::move(wires.second)) {
    std::vector<migration::Wire> out;
    std::vector<migration::Wire> in;
    for (Wires& stream : further) {
      out.push_back(std::move(stream.first));
      in.push_back(std::move(stream.second));
    }
    source = std::make_unique<migration::TcpChannel>(
        source_wire, source_ram, migration::Role::kSource, std::move(out), compression);
    destination = std::make_unique<migration::TcpChannel>(
        destination_wire, destination_ram, migration::Role::kDestination, std::move(in));
  }
  // The channels use the wires.
  ~TcpEnds() override {
    source.reset();
    destination.reset();
  }
  migration::Wire source_wire;
  migration::Wire destination_wire;
};

}  // namespace godwit::testing
