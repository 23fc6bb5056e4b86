// The guest's time: kvmclock and the TSCs of its vCPUs. On a move both go on by the same time, the
// one that passed on the hosts' wall clocks, so the guest sees the gap, never a step back, and its
// two clocks stay in step. Owned by Machine; vCPUs must be parked.
#pragma once

#include <cstdint>
#include <vector>

#include "vmm/kvm/kvm.h"
#include "vmm/state.h"

namespace godwit::vmm {

/// All clocks at one moment.
struct ClockState {
  std::uint64_t kvmclock_ns;
  std::uint64_t realtime_ns;  // the host's CLOCK_REALTIME
  std::uint32_t tsc_khz;
  std::uint32_t padding;
};

/// The state section "clock", read and not yet applied.
struct ClockSection {
  ClockState clock;
  std::vector<std::uint64_t> tscs;  // of each vCPU, at that moment
};

class GuestClock {
 public:
  /// Right after the vCPUs were created; what is passed must outlive the clock.
  GuestClock(kvm::KvmVm& vm, std::vector<kvm::KvmVcpu*> vcpus);

  std::uint32_t tsc_khz() const { return khz_; }
  void save(StateWriter& writer) const;
  /// Throws StateError.
  ClockSection read(StateReader& reader) const;
  /// Before TSC deadlines are set and the vCPUs run. Throws StateError when this host's TSC rate is
  /// too far off the guest's and cannot be scaled.
  void restore(const ClockSection& section, std::uint64_t longest_ns);

 private:
  /// A guest's TSC at a moment of the host's CLOCK_MONOTONIC.
  struct TscReading {
    std::uint64_t tsc;
    std::uint64_t at_ns;
  };
  TscReading read_tsc(std::size_t vcpu) const;
  void set_tsc(std::size_t vcpu, std::uint64_t value, std::uint64_t at_ns);
  void set_kvmclock(std::uint64_t value, std::uint64_t at_ns);

  kvm::KvmVm& vm_;
  std::vector<kvm::KvmVcpu*> vcpus_;
  std::uint32_t khz_ = 0;  // guest TSC rate
  bool frozen_ = false;  // this host's TSC is unstable: KVM stops the guest's while it does not run
  std::vector<TscReading>
      written_;  // what each TSC was last set to; KVM makes it catch up from there
};

/// How far guest time is to go on: what passed between the two wall-clock readings when that is
/// sane (0 to `longest_ns`; clocks of two hosts may disagree), else nothing.
std::uint64_t elapsed_ns(std::uint64_t saved_realtime_ns, std::uint64_t realtime_ns,
                         std::uint64_t longest_ns);

/// The TSC that a host's KVM gives a guest that asks for no other.
struct HostTsc {
  std::uint32_t khz = 0;  // 0: not known
  bool scales = false;    // to any rate
  bool steady = true;     // the kernel keeps time by it, so it has measured its rate well
};
HostTsc host_tsc(const kvm::KvmVm& vm, const kvm::KvmVcpu& vcpu);
bool host_tsc_is_steady();

/// Whether a guest with a TSC of `guest_khz` (0: not known) can go on there: it can if the CPU
/// scales it, or if the rates differ by no more than their measurements do: 1000 ppm, as Linux is
/// content with 500 ppm at either end (arch/x86/kernel/tsc.c); 5 % of a TSC that Linux holds for
/// unstable. kvmclock does not care; a timer is late or early by as much of its time.
bool tsc_rate_fits(std::uint32_t guest_khz, const HostTsc& host);

}  // namespace godwit::vmm
