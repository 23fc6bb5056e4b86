#include "vmm/exit.h"

#include <cpuid.h>
#include <fmt/core.h>

#include <algorithm>

namespace godwit::vmm {
namespace {

ExitResult failed(std::string why) { return {ExitResult::Kind::kFailed, std::move(why)}; }

ExitResult port_access(const kvm_run& run, std::span<std::byte> shared, const devices::Bus& ports) {
  const auto& io = run.io;
  // `count` accesses of `size` bytes lie behind each other: REP INS and REP OUTS.
  if (io.data_offset > shared.size() ||
      std::uint64_t{io.size} * io.count > shared.size() - io.data_offset) {
    return failed("KVM reported a port access with data outside its own page");
  }
  for (std::uint32_t i = 0; i < io.count; ++i) {
    const auto data = shared.subspan(io.data_offset + std::size_t{i} * io.size, io.size);
    if (io.direction == KVM_EXIT_IO_OUT) {
      ports.write(io.port, data);
    } else {
      ports.read(io.port, data);
    }
  }
  return {};
}

ExitResult memory_access(kvm_run& run, const devices::Bus& mmio) {
  auto& access = run.mmio;
  const auto data = std::as_writable_bytes(std::span(access.data))
                        .first(std::min<std::size_t>(access.len, sizeof access.data));
  if (access.is_write != 0) {
    mmio.write(access.phys_addr, data);
  } else {
    mmio.read(access.phys_addr, data);
  }
  return {};
}

std::string internal_error(const kvm_run& run) {
  const auto suberror = run.internal.suberror;
  if (suberror != KVM_INTERNAL_ERROR_EMULATION) {
    return fmt::format(
        "KVM failed on its own (KVM_EXIT_INTERNAL_ERROR, suberror {}); see the host's "
        "kernel log",
        suberror);
  }
  if (!host_has_hardware_virtualization()) {
    return "this host's KVM emulates guest code (the CPU offers no VT-x or SVM here) and cannot "
           "run "
           "this guest; use a host with hardware virtualization";
  }
  return "KVM could not emulate an instruction of the guest (KVM_EXIT_INTERNAL_ERROR, suberror 1); "
         "most likely the guest jumped into memory that holds no code";
}

}  // namespace

bool host_has_hardware_virtualization() {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  if (__get_cpuid(1, &eax, &ebx, &ecx, &edx) != 0 && (ecx & (1u << 5)) != 0) return true;  // VMX
  return __get_cpuid(0x8000'0001, &eax, &ebx, &ecx, &edx) != 0 && (ecx & (1u << 2)) != 0;  // SVM
}

ExitResult dispatch_exit(std::span<std::byte> shared, const devices::Bus& ports,
                         const devices::Bus& mmio) {
  auto& run = *reinterpret_cast<kvm_run*>(shared.data());
  switch (run.exit_reason) {
    case KVM_EXIT_IO:
      return port_access(run, shared, ports);
    case KVM_EXIT_MMIO:
      return memory_access(run, mmio);
    case KVM_EXIT_INTR:
    case KVM_EXIT_HLT:
    case KVM_EXIT_IRQ_WINDOW_OPEN:
      return {};
    case KVM_EXIT_SHUTDOWN:
      return failed("the guest crashed: a vCPU took a triple fault");
    case KVM_EXIT_FAIL_ENTRY:
      return failed(fmt::format("the CPU refused to enter the guest (hardware reason {:#x})",
                                run.fail_entry.hardware_entry_failure_reason));
    case KVM_EXIT_INTERNAL_ERROR:
      return failed(internal_error(run));
    default:
      return failed(fmt::format("KVM left the guest for an unknown reason ({})", run.exit_reason));
  }
}

}  // namespace godwit::vmm
