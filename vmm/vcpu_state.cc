#include "vmm/vcpu_state.h"

#include <fmt/core.h>

#include <algorithm>
#include <array>

#include "vmm/boot/layout.h"

namespace godwit::vmm {
namespace {

constexpr std::uint32_t kVersion = 1;
constexpr std::size_t kMaxCpuid = 4096;
constexpr std::size_t kMaxMsrs = 4096;
constexpr std::size_t kMaxXsave = 64 * 1024;  // bytes; with AMX about 11 KiB

constexpr std::uint32_t kMsrTsc = 0x10;
constexpr std::uint32_t kMsrMiscEnable = 0x1a0;
constexpr std::uint32_t kMsrMtrrDefType = 0x2ff;
constexpr std::uint32_t kMsrTscDeadline = 0x6e0;

/// MSRs that are kept elsewhere, or describe what the guest does not have.
bool is_kept_elsewhere(std::uint32_t msr) {
  return msr == kMsrTsc || msr == kMsrTscDeadline ||  // clock.h; after all others
         (msr >= 0x480 && msr <= 0x4ff) ||            // VMX capabilities
         (msr >= 0x4000'0000 && msr <= 0x4000'01ff);  // Hyper-V's, which is not offered
}

std::vector<kvm_msr_entry> entries_of(std::span<const std::uint32_t> indices) {
  std::vector<kvm_msr_entry> entries;
  for (const std::uint32_t index : indices) {
    kvm_msr_entry entry = {};
    entry.index = index;
    entries.push_back(entry);
  }
  return entries;
}

/// Those of `indices` that can be read, with their values. KVM stops at the first that cannot.
std::vector<kvm_msr_entry> read_msrs(const kvm::KvmVcpu& vcpu,
                                     std::span<const std::uint32_t> indices) {
  std::vector<kvm_msr_entry> all = entries_of(indices);
  std::vector<kvm_msr_entry> read;
  for (std::span<kvm_msr_entry> rest(all); !rest.empty();) {
    const std::size_t done = vcpu.get_msrs(rest);
    read.insert(read.end(), rest.begin(), rest.begin() + static_cast<std::ptrdiff_t>(done));
    rest = rest.subspan(std::min(done + 1, rest.size()));
  }
  return read;
}

std::uint64_t read_msr(const kvm::KvmVcpu& vcpu, std::uint32_t index) {
  kvm_msr_entry entry = {};
  entry.index = index;
  return vcpu.get_msrs({&entry, 1}) == 1 ? entry.data : 0;
}

bool write_msr(kvm::KvmVcpu& vcpu, std::uint32_t index, std::uint64_t value) {
  kvm_msr_entry entry = {};
  entry.index = index;
  entry.data = value;
  return vcpu.set_msrs({&entry, 1}) == 1;
}

kvm_sregs2 read_sregs(const kvm::KvmVcpu& vcpu, bool sregs2) {
  if (sregs2) return vcpu.get_sregs2();
  const kvm_sregs old = vcpu.get_sregs();
  kvm_sregs2 sregs = {};
  sregs.cs = old.cs, sregs.ds = old.ds, sregs.es = old.es, sregs.fs = old.fs, sregs.gs = old.gs;
  sregs.ss = old.ss, sregs.tr = old.tr, sregs.ldt = old.ldt, sregs.gdt = old.gdt;
  sregs.idt = old.idt, sregs.cr0 = old.cr0, sregs.cr2 = old.cr2, sregs.cr3 = old.cr3;
  sregs.cr4 = old.cr4, sregs.cr8 = old.cr8, sregs.efer = old.efer, sregs.apic_base = old.apic_base;
  return sregs;
}

void write_sregs(kvm::KvmVcpu& vcpu, const kvm_sregs2& sregs, bool sregs2) {
  if (sregs2) return vcpu.set_sregs2(sregs);
  // Pending interrupts, which only this older call carries, come with VCPU_EVENTS.
  kvm_sregs old = {};
  old.cs = sregs.cs, old.ds = sregs.ds, old.es = sregs.es, old.fs = sregs.fs, old.gs = sregs.gs;
  old.ss = sregs.ss, old.tr = sregs.tr, old.ldt = sregs.ldt, old.gdt = sregs.gdt;
  old.idt = sregs.idt, old.cr0 = sregs.cr0, old.cr2 = sregs.cr2, old.cr3 = sregs.cr3;
  old.cr4 = sregs.cr4, old.cr8 = sregs.cr8, old.efer = sregs.efer;
  old.apic_base = sregs.apic_base;
  vcpu.set_sregs(old);
}

kvm_segment flat_segment(std::uint16_t selector, std::uint8_t type, bool code64, bool bits32) {
  kvm_segment segment = {};
  segment.limit = 0xffff'ffff;
  segment.selector = selector;
  segment.type = type;
  segment.present = 1;
  segment.s = 1;
  segment.g = 1;
  segment.l = code64 ? 1 : 0;
  segment.db = bits32 ? 1 : 0;
  return segment;
}

/// The LVT timer entry's mode and mask: the MSR means something in deadline mode only.
bool waits_for_deadline(const kvm_lapic_state& lapic) {
  constexpr std::size_t kLvtTimer = 0x320;
  std::uint32_t lvt = 0;
  std::memcpy(&lvt, lapic.regs + kLvtTimer, sizeof lvt);
  return (lvt >> 17 & 3) == 2 && (lvt & 0x1'0000) == 0;
}

}  // namespace

VcpuStateShape probe_vcpu_state(const kvm::Kvm& kvm, const kvm::KvmVm& vm,
                                const kvm::KvmVcpu& vcpu) {
  VcpuStateShape shape;
  // The VM's answer counts: the system's does not know of permitted dynamic features.
  shape.xsave_size =
      std::max<std::size_t>(4096, static_cast<std::size_t>(vm.check_extension(KVM_CAP_XSAVE2)));
  shape.sregs2 = vm.check_extension(KVM_CAP_SREGS2) != 0;
  std::vector<std::uint32_t> candidates = kvm.msr_index_list();
  std::erase_if(candidates, is_kept_elsewhere);
  for (const auto& entry : read_msrs(vcpu, candidates)) shape.msrs.push_back(entry.index);
  return shape;
}

void set_power_on_msrs(kvm::KvmVcpu& vcpu) {
  // Write-back memory, and REP MOVS at full speed. Not every CPU has the second: no matter.
  constexpr std::uint64_t kMtrrsEnabledWriteBack = 0x806;
  constexpr std::uint64_t kFastStrings = 1;
  write_msr(vcpu, kMsrMtrrDefType, kMtrrsEnabledWriteBack);
  write_msr(vcpu, kMsrMiscEnable, read_msr(vcpu, kMsrMiscEnable) | kFastStrings);
}

void set_boot_registers(kvm::KvmVcpu& vcpu, const boot::Entry& entry) {
  constexpr std::uint8_t kCode = 11, kData = 3, kBusyTss = 11;  // Intel SDM 3A, 3.4.5.1 and 3.5
  constexpr std::uint64_t kCr0Pe = 1, kCr0Et = 1 << 4, kCr0Pg = 1u << 31, kCr4Pae = 1 << 5;
  constexpr std::uint64_t kEferLme = 1 << 8, kEferLma = 1 << 10;
  const bool long_mode = entry.mode == boot::Entry::Mode::kLong64;

  kvm_sregs sregs = vcpu.get_sregs();
  sregs.cs = flat_segment(0x10, kCode, long_mode, !long_mode);
  sregs.ds = sregs.es = sregs.ss = sregs.fs = sregs.gs = flat_segment(0x18, kData, false, true);
  sregs.tr = {};
  sregs.tr.limit = 0x67;
  sregs.tr.type = kBusyTss;
  sregs.tr.present = 1;
  sregs.idt = {};
  sregs.gdt.base = boot::kGdt;
  sregs.gdt.limit = 4 * 8 - 1;
  sregs.cr0 = kCr0Pe | kCr0Et;
  sregs.cr4 = 0;
  sregs.efer = 0;
  if (long_mode) {
    sregs.cr3 = boot::kPageTables;
    sregs.cr4 = kCr4Pae;
    sregs.cr0 |= kCr0Pg;
    sregs.efer = kEferLme | kEferLma;
  }
  vcpu.set_sregs(sregs);

  kvm_regs regs = {};
  regs.rflags = 2;
  regs.rip = entry.address;
  regs.rsp = boot::kBootStackTop;
  (long_mode ? regs.rsi : regs.rbx) = entry.boot_info;
  vcpu.set_regs(regs);
}

void save_vcpu(StateWriter& writer, std::uint32_t index, const kvm::KvmVcpu& vcpu,
               const VcpuStateShape& shape) {
  const kvm_mp_state mp_state = vcpu.get_mp_state();
  writer.begin("vcpu", kVersion, index);
  writer.put_array<kvm_cpuid_entry2>(vcpu.get_cpuid2());
  writer.put(mp_state);
  writer.put(vcpu.get_regs());
  writer.put(read_sregs(vcpu, shape.sregs2));
  writer.put_array<std::byte>(vcpu.get_xsave(shape.xsave_size));
  writer.put(vcpu.get_xcrs());
  writer.put(vcpu.get_debugregs());
  const kvm_lapic_state lapic = vcpu.get_lapic();
  writer.put(lapic);
  writer.put_array<kvm_msr_entry>(read_msrs(vcpu, shape.msrs));
  std::uint64_t deadline = read_msr(vcpu, kMsrTscDeadline);
  // Zero in deadline mode may mean that it has just fired and the interrupt is on no record yet.
  // One interrupt too many does no harm, one too few stops the vCPU's clock.
  if (deadline == 0 && waits_for_deadline(lapic)) deadline = read_msr(vcpu, kMsrTsc);
  writer.put(deadline);
  writer.put(vcpu.get_vcpu_events());
}

VcpuState read_vcpu(StateReader& reader, std::uint32_t index) {
  VcpuState state;
  reader.begin("vcpu", kVersion, index);
  state.cpuid = reader.get_array<kvm_cpuid_entry2>(kMaxCpuid);
  state.mp_state = reader.get<kvm_mp_state>();
  state.regs = reader.get<kvm_regs>();
  state.sregs = reader.get<kvm_sregs2>();
  state.xsave = reader.get_array<std::byte>(kMaxXsave);
  state.xcrs = reader.get<kvm_xcrs>();
  state.debugregs = reader.get<kvm_debugregs>();
  state.lapic = reader.get<kvm_lapic_state>();
  state.msrs = reader.get_array<kvm_msr_entry>(kMaxMsrs);
  state.tsc_deadline = reader.get<std::uint64_t>();
  state.events = reader.get<kvm_vcpu_events>();
  return state;
}

void restore_vcpu_registers(kvm::KvmVcpu& vcpu, const VcpuState& state,
                            const VcpuStateShape& shape) {
  // The area may be larger here than there, its tail then being state the guest cannot have.
  std::vector<std::byte> xsave = state.xsave;
  const auto is_zero = [](std::byte b) { return b == std::byte{0}; };
  if (xsave.size() > shape.xsave_size &&
      !std::all_of(xsave.begin() + static_cast<std::ptrdiff_t>(shape.xsave_size), xsave.end(),
                   is_zero)) {
    throw StateError("machine state: the guest uses CPU state (XSAVE) that this host cannot hold");
  }
  xsave.resize(shape.xsave_size);

  vcpu.set_cpuid2(state.cpuid);
  vcpu.set_mp_state(state.mp_state);
  vcpu.set_regs(state.regs);
  write_sregs(vcpu, state.sregs, shape.sregs2);
  vcpu.set_xsave(xsave);
  vcpu.set_xcrs(state.xcrs);
  vcpu.set_debugregs(state.debugregs);
  vcpu.set_lapic(state.lapic);
}

void restore_vcpu_msrs(kvm::KvmVcpu& vcpu, const VcpuState& state) {
  for (std::span<const kvm_msr_entry> rest(state.msrs); !rest.empty();) {
    const std::size_t done = vcpu.set_msrs(rest);
    if (done == rest.size()) break;
    const kvm_msr_entry& refused = rest[done];
    // Read-only and absent registers are refused even with the value that they have.
    if (refused.data != 0 && read_msr(vcpu, refused.index) != refused.data) {
      throw StateError(fmt::format("machine state: this host refuses the value {:#x} of MSR {:#x}",
                                   refused.data, refused.index));
    }
    rest = rest.subspan(done + 1);
  }
  if (state.tsc_deadline != 0 && !write_msr(vcpu, kMsrTscDeadline, state.tsc_deadline)) {
    throw StateError("machine state: this host refuses the guest's TSC deadline");
  }
  vcpu.set_vcpu_events(state.events);
}

}  // namespace godwit::vmm
