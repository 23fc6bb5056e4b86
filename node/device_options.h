// The flags that give a guest devices beside its disks: --net, --rng, --balloon,
// --vsock, and how `godwit receive` replaces
// what the guest had at the source. Every complaint is a UsageError that names its flag.
#pragma once

#include <string>
#include <vector>

#include "node/options.h"
#include "vmm/config.h"

namespace godwit::node {

void add_device_options(Options& options);
/// Fills in the devices those flags describe; config.name must be there already.
void set_devices(vmm::MachineConfig& config, const Options& options);

/// The same for `receive`: what host this is decides which taps it has.
void add_arrival_options(Options& options);
/// What those flags say.
struct Arrival {
  std::vector<vmm::NetConfig> nets;  // tap and bridge of the n-th are the guest's n-th card's
  std::string vsock_path;            // empty: as it was
};
/// Throws UsageError.
Arrival arrival(const Options& options);
/// Throws std::runtime_error when the guest has no such device.
void replace_devices(vmm::MachineConfig& config, const Arrival& arrival);

/// A MAC address of its own for every card of a guest that now is `config`, by its name. Throws
/// UsageError when they are what they were.
void renew_macs(vmm::MachineConfig& config);

/// A --net of `run` that gives this card.
std::string net_text(const vmm::NetConfig& net);

}  // namespace godwit::node
