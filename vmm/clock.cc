#include "vmm/clock.h"

#include <fmt/core.h>
#include <time.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <string>

namespace godwit::vmm {
namespace {

constexpr std::uint32_t kVersion = 1;
constexpr std::uint32_t kMsrTsc = 0x10;
constexpr std::uint64_t kSecond = 1'000'000'000;
constexpr int kTries = 4;  // of a measurement that an interruption can spoil

std::uint64_t now_ns(clockid_t clock = CLOCK_MONOTONIC) {
  timespec time = {};
  ::clock_gettime(clock, &time);
  return static_cast<std::uint64_t>(time.tv_sec) * kSecond +
         static_cast<std::uint64_t>(time.tv_nsec);
}

std::uint64_t cycles_of(std::uint64_t ns, std::uint32_t khz) {
  return static_cast<std::uint64_t>(static_cast<unsigned __int128>(ns) * khz / 1'000'000);
}

std::uint64_t read_tsc_msr(const kvm::KvmVcpu& vcpu) {
  kvm_msr_entry entry = {};
  entry.index = kMsrTsc;
  if (vcpu.get_msrs({&entry, 1}) != 1) throw std::runtime_error("KVM_GET_MSRS: no TSC");
  return entry.data;
}

struct Reading {
  std::uint64_t value;
  std::uint64_t at_ns;
};

std::uint64_t difference(std::uint32_t a, std::uint32_t b) { return a > b ? a - b : b - a; }

/// What `read` answers and when it did: of a few tries the one that took least, and of that the
/// middle.
template <typename Read>
Reading read_timed(Read read) {
  Reading best = {};
  std::uint64_t best_width = UINT64_MAX;
  for (int i = 0; i < kTries; ++i) {
    const std::uint64_t before = now_ns();
    const std::uint64_t value = read();
    const std::uint64_t width = now_ns() - before;
    if (width >= best_width) continue;
    best_width = width;
    best = {value, before + width / 2};
  }
  return best;
}

}  // namespace

std::uint64_t elapsed_ns(std::uint64_t saved_realtime_ns, std::uint64_t realtime_ns,
                         std::uint64_t longest_ns) {
  if (realtime_ns < saved_realtime_ns) return 0;
  const std::uint64_t elapsed = realtime_ns - saved_realtime_ns;
  return elapsed > longest_ns ? 0 : elapsed;
}

bool host_tsc_is_steady() {
  std::ifstream file("/sys/devices/system/clocksource/clocksource0/available_clocksource");
  const std::vector<std::string> clocks(std::istream_iterator<std::string>(file), {});
  return clocks.empty() || std::ranges::any_of(clocks, [](const std::string& name) {
           return name.starts_with("tsc");
         });
}

HostTsc host_tsc(const kvm::KvmVm& vm, const kvm::KvmVcpu& vcpu) {
  return {vcpu.get_tsc_khz(), vm.check_extension(KVM_CAP_TSC_CONTROL) != 0, host_tsc_is_steady()};
}

bool tsc_rate_fits(std::uint32_t guest_khz, const HostTsc& host) {
  if (guest_khz == 0 || host.khz == 0) return true;  // nothing known: nothing to hold against it
  const std::uint64_t tolerance_ppm = host.steady ? 1'000 : 50'000;
  return host.scales || difference(guest_khz, host.khz) * 1'000'000 <= tolerance_ppm * host.khz;
}

GuestClock::GuestClock(kvm::KvmVm& vm, std::vector<kvm::KvmVcpu*> vcpus)
    : vm_(vm), vcpus_(std::move(vcpus)), khz_(vcpus_[0]->get_tsc_khz()) {
  // KVM says nowhere whether it found the host's TSC unstable; but then every use of a vCPU
  // continues the guest's where it was left, and time that passes in between does not show.
  constexpr std::uint64_t kProbe = 50'000;  // ns
  const Reading first = read_timed([&] { return read_tsc_msr(*vcpus_[0]); });
  while (now_ns() < first.at_ns + kProbe) {
  }
  const Reading second = read_timed([&] { return read_tsc_msr(*vcpus_[0]); });
  frozen_ = static_cast<std::int64_t>(second.value - first.value) <
            static_cast<std::int64_t>(cycles_of(kProbe, khz_) / 2);
  for (const kvm::KvmVcpu* vcpu : vcpus_) written_.push_back({read_tsc_msr(*vcpu), now_ns()});
}

GuestClock::TscReading GuestClock::read_tsc(std::size_t vcpu) const {
  const Reading reading = read_timed([&] { return read_tsc_msr(*vcpus_[vcpu]); });
  if (!frozen_) return {reading.value, reading.at_ns};
  // What the vCPU would see if it were entered now: KVM lets it catch up with the time that passed
  // since its TSC was written, but never sets it back.
  const std::uint64_t caught_up =
      written_[vcpu].tsc + cycles_of(reading.at_ns - written_[vcpu].at_ns, khz_);
  return {std::max(reading.value, caught_up), reading.at_ns};
}

void GuestClock::save(StateWriter& writer) const {
  // All readings are brought to the moment of the first.
  const Reading kvmclock = read_timed([this] { return vm_.get_clock().clock; });
  const Reading realtime = read_timed([] { return now_ns(CLOCK_REALTIME); });
  ClockState clock = {};
  clock.kvmclock_ns = kvmclock.value;
  clock.realtime_ns = realtime.value - (realtime.at_ns - kvmclock.at_ns);
  clock.tsc_khz = khz_;
  // Linux 5.16, where all TSCs agree: both of one moment, without an error of measurement.
  if (const kvm_clock_data pair = vm_.get_clock(); (pair.flags & KVM_CLOCK_REALTIME) != 0) {
    clock.realtime_ns = pair.realtime - (pair.clock - kvmclock.value);
  }

  const auto base_offset = vcpus_[0]->get_tsc_offset();
  std::vector<std::uint64_t> tscs;
  for (std::size_t i = 0; i < vcpus_.size(); ++i) {
    const auto offset = vcpus_[i]->get_tsc_offset();
    if (i != 0 && !frozen_ && base_offset && offset) {
      tscs.push_back(tscs[0] + (*offset - *base_offset));  // exact: no error of measurement
      continue;
    }
    const TscReading reading = read_tsc(i);
    tscs.push_back(reading.tsc - cycles_of(reading.at_ns - kvmclock.at_ns, khz_));
  }
  writer.begin("clock", kVersion, 0);
  writer.put(clock);
  writer.put_array<std::uint64_t>(tscs);
}

ClockSection GuestClock::read(StateReader& reader) const {
  ClockSection section;
  reader.begin("clock", kVersion, 0);
  section.clock = reader.get<ClockState>();
  section.tscs = reader.get_array<std::uint64_t>(vcpus_.size());
  if (section.tscs.size() != vcpus_.size()) reader.fail("of another number of vCPUs");
  if (section.clock.kvmclock_ns > static_cast<std::uint64_t>(INT64_MAX) / 2) reader.fail("no time");
  return section;
}

void GuestClock::restore(const ClockSection& section, std::uint64_t longest_ns) {
  const ClockState& saved = section.clock;
  const HostTsc host = host_tsc(vm_, *vcpus_[0]);
  if (!tsc_rate_fits(saved.tsc_khz, host)) {
    throw StateError(
        fmt::format("machine state: the guest's TSC runs at {} kHz, this host's at {} "
                    "kHz, and this CPU cannot scale it",
                    saved.tsc_khz, khz_));
  }
  // 250 ppm are calibration noise; scaling for noise would only cost precision.
  if (host.scales && saved.tsc_khz != 0 && difference(saved.tsc_khz, khz_) * 4000 > khz_) {
    khz_ = saved.tsc_khz;
    for (kvm::KvmVcpu* vcpu : vcpus_) vcpu->set_tsc_khz(khz_);
  }
  const std::uint64_t now = now_ns();
  const std::uint64_t elapsed = elapsed_ns(saved.realtime_ns, now_ns(CLOCK_REALTIME), longest_ns);
  for (std::size_t i = 0; i < vcpus_.size(); ++i) {
    set_tsc(i, section.tscs[i] + cycles_of(elapsed, khz_), now);
  }
  // One offset for all that had one before, to the bit: so KVM knows that they are synchronized.
  const auto base = vcpus_[0]->get_tsc_offset();
  for (std::size_t i = 1; base && !frozen_ && i < vcpus_.size(); ++i) {
    vcpus_[i]->set_tsc_offset(*base + (section.tscs[i] - section.tscs[0]));
  }
  set_kvmclock(saved.kvmclock_ns + elapsed, now);
}

/// Makes the TSC what is `value` at `at_ns`, whatever the time is by now.
void GuestClock::set_tsc(std::size_t vcpu, std::uint64_t value, std::uint64_t at_ns) {
  const Reading reading = read_timed([&] { return read_tsc_msr(*vcpus_[vcpu]); });
  const std::uint64_t wanted = value + cycles_of(reading.at_ns - at_ns, khz_);
  written_[vcpu] = {wanted, reading.at_ns};
  // By the offset where the kernel lets us: a written MSR is taken for an attempt to synchronize
  // when another was written within a second, and loses its value.
  const auto offset = vcpus_[vcpu]->get_tsc_offset();
  if (offset && vcpus_[vcpu]->set_tsc_offset(*offset + (wanted - reading.value))) return;
  kvm_msr_entry entry = {};
  entry.index = kMsrTsc;
  entry.data = wanted;
  if (vcpus_[vcpu]->set_msrs({&entry, 1}) != 1) {
    throw StateError("machine state: this host refuses the guest's TSC");
  }
}

/// Makes kvmclock what is `value` at `at_ns`. Setting it takes a moment, which differs by host:
/// measure how far off it came out, and set it again with that taken into account.
void GuestClock::set_kvmclock(std::uint64_t value, std::uint64_t at_ns) {
  std::int64_t correction = 0;  // ns
  for (int i = 0; i < kTries; ++i) {
    kvm_clock_data clock = {};
    clock.clock = value + (now_ns() - at_ns) + static_cast<std::uint64_t>(correction);
    vm_.set_clock(clock);
    const Reading reading = read_timed([this] { return vm_.get_clock().clock; });
    const auto error = static_cast<std::int64_t>(reading.value - (value + (reading.at_ns - at_ns)));
    if (std::llabs(error) < 1'000) return;
    correction -= error;
  }
}

}  // namespace godwit::vmm
