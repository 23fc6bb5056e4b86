// The guest's time: kvmclock and the TSCs of its vCPUs. On a move both go on by the same time, the
// one that passed on the hosts' wall clocks, so the guest sees the gap, never a step back, and its
// two clocks stay in step. vCPUs must be parked.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "vmm/kvm/kvm.h"
#include "vmm/state.h"

namespace godwit::vmm {

/// Both clocks at one moment.
struct ClockState {
  std::uint64_t kvmclock_ns;
  std::uint64_t realtime_ns;  // the host's CLOCK_REALTIME
  std::uint64_t tsc;          // of vCPU 0
  std::uint32_t tsc_khz;
  std::uint32_t padding;
};

/// Writes the section "clock".
void save_clock(StateWriter& writer, const kvm::KvmVm& vm, std::span<kvm::KvmVcpu* const> vcpus);

/// ClockState and, per vCPU, how far its TSC is from vCPU 0's.
struct ClockSection {
  ClockState clock;
  std::vector<std::uint64_t> tsc_differences;
};
ClockSection read_clock(StateReader& reader, std::size_t vcpus);

/// How far guest time is to go on: what passed between the two wall-clock readings when that is
/// sane (0 to 60 s; clocks of two hosts may disagree), else nothing.
std::uint64_t elapsed_ns(std::uint64_t saved_realtime_ns, std::uint64_t realtime_ns);

/// Sets kvmclock and TSCs; before the deadlines and the first entry. Throws StateError when this
/// host's TSC rate is too far off the guest's and cannot be scaled.
void restore_clock(const ClockSection& section, kvm::KvmVm& vm,
                   std::span<kvm::KvmVcpu* const> vcpus);

/// Whether a guest with a TSC of `guest_khz` keeps time on a host with `host_khz`.
bool tsc_rate_fits(std::uint32_t guest_khz, std::uint32_t host_khz, bool can_scale);

}  // namespace godwit::vmm
