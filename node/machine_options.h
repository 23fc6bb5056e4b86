// `godwit run`'s flags that make up a machine, and the checks that a user's mistake ends in one
// clear line before anything is started.
#pragma once

#include "node/options.h"
#include "vmm/config.h"

namespace godwit::node {

/// --name, --kernel, --initrd, --append, --memory, --cpus, --cpu, --disk, --hugepages, and those of
/// device_options.h.
void add_machine_options(Options& options);

/// The machine those flags describe, paths made absolute. Throws UsageError for what no host could
/// run: a bad name, memory that is no multiple of 2 MiB, a file that is no kernel, a missing disk,
/// ...
vmm::MachineConfig machine_config(const Options& options);

/// A --disk that gives this one.
std::string disk_text(const vmm::DiskConfig& disk);

/// Why this host cannot give a guest that much memory; empty if it can.
std::string memory_complaint(std::uint64_t bytes);

/// Throws std::runtime_error with the remedy when /dev/kvm cannot be used.
void check_kvm();

}  // namespace godwit::node
