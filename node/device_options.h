// The flags that give a guest devices beside its disks: --net, and how `godwit receive` replaces
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
/// Puts the n-th --net in the place of the guest's n-th tap and bridge. Throws UsageError.
std::vector<vmm::NetConfig> arrival_nets(const Options& options);
/// Throws std::runtime_error when there are more replacements than cards.
void replace_taps(vmm::MachineConfig& config, const std::vector<vmm::NetConfig>& nets);

/// A --net of `run` that gives this card.
std::string net_text(const vmm::NetConfig& net);

}  // namespace godwit::node
