// The registers of one vCPU: set for booting, and saved and restored as a section. The vCPU must be
// parked. In the orders that KVM needs: MP_STATE is read first and VCPU_EVENTS last, because
// reading either can settle pending work; the local APIC is written before the MSRs, and the TSC
// deadline after all other MSRs.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "vmm/boot/entry.h"
#include "vmm/cpuid.h"
#include "vmm/kvm/kvm.h"
#include "vmm/state.h"

namespace godwit::vmm {

/// What reading and writing vCPU state needs to know of the host; found out once.
struct VcpuStateShape {
  std::size_t xsave_size = 4096;  // bytes
  bool sregs2 = false;
  std::vector<std::uint32_t> msrs;  // that can be read, less those kept elsewhere
};

VcpuStateShape probe_vcpu_state(const kvm::Kvm& kvm, const kvm::KvmVm& vm,
                                const kvm::KvmVcpu& vcpu);

/// What firmware would have set on every vCPU: memory type and string-operation defaults.
void set_power_on_msrs(kvm::KvmVcpu& vcpu);

/// Sets the registers so that the vCPU begins at `entry`.
void set_boot_registers(kvm::KvmVcpu& vcpu, const boot::Entry& entry);

void save_vcpu(StateWriter& writer, std::uint32_t index, const kvm::KvmVcpu& vcpu,
               const VcpuStateShape& shape);

/// A vCPU's section, taken in but not yet applied.
struct VcpuState {
  CpuidEntries cpuid;
  kvm_mp_state mp_state;
  kvm_regs regs;
  kvm_sregs2 sregs;
  std::vector<std::byte> xsave;
  kvm_xcrs xcrs;
  kvm_debugregs debugregs;
  kvm_lapic_state lapic;
  std::vector<kvm_msr_entry> msrs;
  std::uint64_t tsc_deadline;
  kvm_vcpu_events events;
};

/// Throws StateError.
VcpuState read_vcpu(StateReader& reader, std::uint32_t index);

/// Everything up to the TSC: CPUID to LAPIC. The TSC is to be set between the two (clock.h).
void restore_vcpu_registers(kvm::KvmVcpu& vcpu, const VcpuState& state,
                            const VcpuStateShape& shape);
/// MSRs, the TSC deadline and pending events. Throws StateError naming an MSR that this host
/// refuses.
void restore_vcpu_msrs(kvm::KvmVcpu& vcpu, const VcpuState& state);

}  // namespace godwit::vmm
