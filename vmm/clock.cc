#include "vmm/clock.h"

#include <fmt/core.h>
#include <time.h>

#include <algorithm>
#include <cstdlib>

namespace godwit::vmm {
namespace {

constexpr std::uint32_t kVersion = 1;
constexpr std::uint32_t kMsrTsc = 0x10;
constexpr std::uint64_t kSecond = 1'000'000'000;
constexpr std::uint64_t kLongestMove = 60 * kSecond;
constexpr std::size_t kMaxVcpus = 1024;

std::uint64_t now_ns(clockid_t clock) {
  timespec time = {};
  ::clock_gettime(clock, &time);
  return static_cast<std::uint64_t>(time.tv_sec) * kSecond +
         static_cast<std::uint64_t>(time.tv_nsec);
}

std::uint64_t read_tsc(const kvm::KvmVcpu& vcpu) {
  kvm_msr_entry entry = {};
  entry.index = kMsrTsc;
  if (vcpu.get_msrs({&entry, 1}) != 1) throw std::runtime_error("KVM_GET_MSRS: no TSC");
  return entry.data;
}

/// Cycles in `ns`, or the other way round, without overflow.
std::uint64_t scale(std::uint64_t value, std::uint64_t numerator, std::uint64_t denominator) {
  return static_cast<std::uint64_t>(static_cast<unsigned __int128>(value) * numerator /
                                    denominator);
}
std::uint64_t cycles_of(std::uint64_t ns, std::uint32_t khz) { return scale(ns, khz, 1'000'000); }
std::uint64_t ns_of(std::uint64_t cycles, std::uint32_t khz) {
  return khz == 0 ? 0 : scale(cycles, 1'000'000, khz);
}

struct Reading {
  std::uint64_t kvmclock_ns;
  std::uint64_t tsc;
};

/// Both clocks at the same moment, as well as two system calls can: of a few tries the tightest,
/// and of that the middle.
Reading read_both(const kvm::KvmVm& vm, const kvm::KvmVcpu& vcpu) {
  Reading best = {};
  std::uint64_t best_width = UINT64_MAX;
  for (int i = 0; i < 4; ++i) {
    const std::uint64_t before = read_tsc(vcpu);
    const std::uint64_t clock = vm.get_clock().clock;
    const std::uint64_t width = read_tsc(vcpu) - before;
    if (width >= best_width) continue;
    best_width = width;
    best = {clock, before + width / 2};
  }
  return best;
}

void set_kvmclock(kvm::KvmVm& vm, std::uint64_t ns) {
  kvm_clock_data clock = {};
  clock.clock = ns;
  vm.set_clock(clock);
}

/// Moves a vCPU's TSC by `cycles` (wrapping). By its offset where the kernel lets us: a write of
/// the MSR within a second of another vCPU's is taken for an attempt to synchronize, and loses the
/// value.
void advance_tsc(kvm::KvmVcpu& vcpu, std::uint64_t cycles) {
  if (const auto offset = vcpu.get_tsc_offset()) {
    if (vcpu.set_tsc_offset(*offset + cycles)) return;
  }
  kvm_msr_entry entry = {};
  entry.index = kMsrTsc;
  entry.data = read_tsc(vcpu) + cycles;
  if (vcpu.set_msrs({&entry, 1}) != 1) throw StateError("machine state: this host refuses the TSC");
}

}  // namespace

void save_clock(StateWriter& writer, const kvm::KvmVm& vm, std::span<kvm::KvmVcpu* const> vcpus) {
  const Reading reading = read_both(vm, *vcpus[0]);
  ClockState clock = {};
  clock.kvmclock_ns = reading.kvmclock_ns;
  clock.tsc = reading.tsc;
  clock.tsc_khz = vcpus[0]->get_tsc_khz();
  clock.realtime_ns =
      now_ns(CLOCK_REALTIME) - ns_of(read_tsc(*vcpus[0]) - reading.tsc, clock.tsc_khz);
  std::vector<std::uint64_t> differences;
  const auto base = vcpus[0]->get_tsc_offset();
  for (const kvm::KvmVcpu* vcpu : vcpus) {
    const auto offset = vcpu->get_tsc_offset();
    differences.push_back(base && offset ? *offset - *base : 0);
  }
  writer.begin("clock", kVersion, 0);
  writer.put(clock);
  writer.put_array<std::uint64_t>(differences);
}

ClockSection read_clock(StateReader& reader, std::size_t vcpus) {
  ClockSection section;
  reader.begin("clock", kVersion, 0);
  section.clock = reader.get<ClockState>();
  section.tsc_differences = reader.get_array<std::uint64_t>(kMaxVcpus);
  if (section.tsc_differences.size() != vcpus) reader.fail("of another number of vCPUs");
  if (section.clock.kvmclock_ns > static_cast<std::uint64_t>(INT64_MAX)) reader.fail("no time");
  return section;
}

std::uint64_t elapsed_ns(std::uint64_t saved_realtime_ns, std::uint64_t realtime_ns) {
  if (realtime_ns < saved_realtime_ns) return 0;
  const std::uint64_t elapsed = realtime_ns - saved_realtime_ns;
  return elapsed > kLongestMove ? 0 : elapsed;
}

bool tsc_rate_fits(std::uint32_t guest_khz, std::uint32_t host_khz, bool can_scale) {
  if (guest_khz == 0 || host_khz == 0) return true;  // nothing known: nothing to hold against it
  const std::uint64_t off = guest_khz > host_khz ? guest_khz - host_khz : host_khz - guest_khz;
  return can_scale ||
         off * 100 <= host_khz;  // kvmclock does not care; a timer off by 1 % is late by 1 %
}

void restore_clock(const ClockSection& section, kvm::KvmVm& vm,
                   std::span<kvm::KvmVcpu* const> vcpus) {
  const ClockState& saved = section.clock;
  const std::uint32_t host_khz = vcpus[0]->get_tsc_khz();
  const bool can_scale = vm.check_extension(KVM_CAP_TSC_CONTROL) != 0;
  if (!tsc_rate_fits(saved.tsc_khz, host_khz, can_scale)) {
    throw StateError(
        fmt::format("machine state: the guest's TSC runs at {} kHz, this host's at {} kHz, "
                    "and this CPU cannot scale it",
                    saved.tsc_khz, host_khz));
  }
  // Small differences are calibration noise, and scaling for noise costs precision.
  const std::uint32_t khz =
      tsc_rate_fits(saved.tsc_khz, host_khz, false) ? host_khz : saved.tsc_khz;
  if (khz != host_khz) {
    for (kvm::KvmVcpu* vcpu : vcpus) vcpu->set_tsc_khz(khz);
  }
  const std::uint64_t elapsed = elapsed_ns(saved.realtime_ns, now_ns(CLOCK_REALTIME));
  const std::uint64_t started = now_ns(CLOCK_MONOTONIC);
  const auto since_saved = [&] { return elapsed + (now_ns(CLOCK_MONOTONIC) - started); };

  const std::uint64_t target = saved.tsc + cycles_of(since_saved(), khz);
  advance_tsc(*vcpus[0], target - read_tsc(*vcpus[0]));
  const auto base = vcpus[0]->get_tsc_offset();
  for (std::size_t i = 1; i < vcpus.size(); ++i) {
    const auto offset = vcpus[i]->get_tsc_offset();
    // One offset for all, to the bit: that is how KVM knows that the TSCs are synchronized.
    advance_tsc(*vcpus[i], base && offset ? *base + section.tsc_differences[i] - *offset
                                          : read_tsc(*vcpus[0]) - read_tsc(*vcpus[i]));
  }
  // kvmclock follows the TSC. Setting it takes a moment, which differs by host: measure how far off
  // it came out, and set it again with that taken into account.
  const auto wanted_at = [&](std::uint64_t tsc) {
    return saved.kvmclock_ns + ns_of(tsc - saved.tsc, khz);
  };
  std::int64_t correction = 0;  // ns
  for (int i = 0; i < 4; ++i) {
    const auto wanted = static_cast<std::int64_t>(wanted_at(read_tsc(*vcpus[0])));
    set_kvmclock(vm, static_cast<std::uint64_t>(wanted + correction));
    const Reading now = read_both(vm, *vcpus[0]);
    const auto error = static_cast<std::int64_t>(now.kvmclock_ns - wanted_at(now.tsc));
    if (std::llabs(error) < 1'000) break;
    correction -= error;
  }
}

}  // namespace godwit::vmm
