// KVM as three classes, one per kind of descriptor, one method per ioctl. A failing ioctl throws
// std::system_error with its name. Owned by Machine. KvmVm's methods may be called from any thread;
// KvmVcpu's only while its vCPU is not in run(), or from the thread that calls run().
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "vmm/kvm/kvm_abi.h"
#include "vmm/sys/mapping.h"
#include "vmm/sys/unique_fd.h"

namespace godwit::kvm {

class Kvm {
 public:
  /// Opens /dev/kvm; throws std::runtime_error with what to do when it cannot or its API is not 12.
  Kvm();

  int fd() const { return fd_.get(); }
  /// KVM API 4.4: 0 when missing, else positive, its meaning depending on the capability.
  int check_extension(int capability) const;
  std::vector<kvm_cpuid_entry2> supported_cpuid() const;  // 4.46
  std::vector<std::uint32_t> msr_index_list() const;      // 4.3
  std::size_t vcpu_mmap_size() const;                     // 4.5, bytes

 private:
  sys::UniqueFd fd_;
};

class KvmVm {
 public:
  explicit KvmVm(const Kvm& kvm);  // 4.2

  int fd() const { return fd_.get(); }
  int check_extension(int capability) const;
  void enable_cap(std::uint32_t capability, std::uint64_t arg0);  // 4.37
  void set_tss_addr(std::uint64_t address);                       // 4.36
  void set_identity_map_addr(std::uint64_t address);              // 4.57

  /// 4.35; size 0 deletes the slot. `flags`: KVM_MEM_*.
  void set_user_memory_region(std::uint32_t slot, std::uint32_t flags, std::uint64_t guest_addr,
                              std::span<std::byte> memory);
  /// 4.8; `words` must hold one bit for each page of the slot.
  void get_dirty_log(std::uint32_t slot, std::span<std::uint64_t> words) const;
  /// 4.117; `first_page` relative to the slot, a multiple of 64; so is `pages`, or it ends the
  /// slot.
  void clear_dirty_log(std::uint32_t slot, std::uint64_t first_page, std::uint32_t pages,
                       std::span<const std::uint64_t> words);

  void create_irqchip();                            // 4.24: PIC, I/O APIC and local APICs
  kvm_irqchip get_irqchip(std::uint32_t id) const;  // 4.26
  void set_irqchip(const kvm_irqchip& chip);        // 4.27
  /// 4.25: an edge on an input of the I/O APIC; delivered when this returns.
  void pulse_irq(std::uint32_t gsi);
  /// 4.75: each signal of `event_fd` is an edge on `gsi`, until the eventfd is closed.
  void irqfd(int event_fd, std::uint32_t gsi);
  /// 4.59: a guest write of `length` bytes at MMIO `address` signals `event_fd`.
  void ioeventfd(std::uint64_t address, std::uint32_t length, int event_fd, bool assign);
  void set_gsi_routing(std::span<const kvm_irq_routing_entry> entries);  // 4.52, replaces all

  kvm_clock_data get_clock() const;             // 4.29
  void set_clock(const kvm_clock_data& clock);  // 4.30

 private:
  sys::UniqueFd fd_;
};

class KvmVcpu {
 public:
  KvmVcpu(const Kvm& kvm, KvmVm& vm, std::uint32_t id);  // 4.7

  /// The page shared with the kernel (KVM API 5).
  kvm_run& shared() const { return *reinterpret_cast<kvm_run*>(mapping_.data()); }
  /// The whole shared mapping: I/O data lies beyond kvm_run.
  std::span<std::byte> shared_bytes() const { return mapping_.bytes(); }

  /// 4.10; false when a signal or immediate_exit ended it.
  bool run();

  void set_cpuid2(std::span<const kvm_cpuid_entry2> entries);  // 4.20
  std::vector<kvm_cpuid_entry2> get_cpuid2() const;            // 4.47
  kvm_regs get_regs() const;
  void set_regs(const kvm_regs& regs);
  kvm_sregs get_sregs() const;
  void set_sregs(const kvm_sregs& sregs);
  kvm_sregs2 get_sregs2() const;  // 4.131, KVM_CAP_SREGS2
  void set_sregs2(const kvm_sregs2& sregs);
  kvm_debugregs get_debugregs() const;
  void set_debugregs(const kvm_debugregs& debugregs);
  kvm_xcrs get_xcrs() const;
  void set_xcrs(const kvm_xcrs& xcrs);
  /// 4.134; `size`: what KVM_CAP_XSAVE2 answers on the VM, or 4096 (then 4.43 is used).
  std::vector<std::byte> get_xsave(std::size_t size) const;
  void set_xsave(std::span<const std::byte> xsave);
  kvm_lapic_state get_lapic() const;
  void set_lapic(const kvm_lapic_state& lapic);
  kvm_mp_state get_mp_state() const;
  void set_mp_state(const kvm_mp_state& state);
  kvm_vcpu_events get_vcpu_events() const;
  void set_vcpu_events(const kvm_vcpu_events& events);
  /// 4.18 and 4.19: the number of MSRs done; the one at that index failed.
  std::size_t get_msrs(std::span<kvm_msr_entry> entries) const;
  std::size_t set_msrs(std::span<const kvm_msr_entry> entries);
  std::uint32_t get_tsc_khz() const;
  void set_tsc_khz(std::uint32_t khz);
  /// Devices/vcpu.rst 4.1; nullopt / false where the kernel has no such attribute.
  std::optional<std::uint64_t> get_tsc_offset() const;
  bool set_tsc_offset(std::uint64_t offset);
  /// 4.66: tells the guest that it was paused; false when it does not use kvmclock.
  bool kvmclock_ctrl();
  /// 4.143: builds the nested page table of guest memory, as a read by the guest would; false where
  /// the kernel cannot (KVM_CAP_PRE_FAULT_MEMORY, Linux 6.11).
  bool pre_fault_memory(std::uint64_t guest_addr, std::uint64_t size);

 private:
  sys::UniqueFd fd_;
  sys::Mapping mapping_;
};

}  // namespace godwit::kvm
