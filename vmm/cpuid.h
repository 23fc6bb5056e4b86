// What CPU the guest sees, and whether another host can offer the same. Pure functions but for the
// KVM descriptor they ask. Any thread.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "vmm/kvm/kvm.h"

namespace godwit::vmm {

using CpuidEntries = std::vector<kvm_cpuid_entry2>;

/// The leaves vCPU `index` of `cpus` gets: what KVM supports, less what cannot move (performance
/// counters, nested virtualization, invariant TSC, asynchronous page faults), with its topology:
/// one package, one thread a core, APIC id = index. All of it masked to `model` (cpu_model.h).
CpuidEntries guest_cpuid(const CpuidEntries& supported, bool tsc_deadline, unsigned index,
                         unsigned cpus, std::string_view model = "host");

/// Asks KVM for what guest_cpuid() needs.
CpuidEntries guest_cpuid(const kvm::Kvm& kvm, unsigned index, unsigned cpus,
                         std::string_view model = "host");

/// What of `needed` is not in `offered`, each named: "avx2 (7.0.ebx[5])". Empty: the guest can run.
std::vector<std::string> missing_features(const CpuidEntries& needed, const CpuidEntries& offered);

/// Its part about feature bits: those of `needed` that `offered` lacks. A leaf may be listed more
/// than once in `needed`.
std::vector<std::string> missing_bits(const CpuidEntries& needed, const CpuidEntries& offered);

/// JSON text of what missing_features() compares, and back. from_json throws std::runtime_error on
/// anything else: the text comes from a peer.
std::string cpuid_to_json(const CpuidEntries& entries);
CpuidEntries cpuid_from_json(const std::string& text);

}  // namespace godwit::vmm
