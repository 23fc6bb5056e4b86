// What to do when a vCPU leaves the guest: a free function over the shared page and the buses, so
// that it can be tested without KVM. Called from vCPU threads.
#pragma once

#include <cstddef>
#include <span>
#include <string>

#include "vmm/devices/bus.h"
#include "vmm/kvm/kvm_abi.h"

namespace godwit::vmm {

struct ExitResult {
  enum class Kind {
    kContinue,  // handled: run on
    kFailed,    // the guest cannot go on
  } kind = Kind::kContinue;
  std::string why;  // for kFailed: one line for the user
};

/// `shared` is the vCPU's mapping: kvm_run, and beyond it the data of port accesses.
ExitResult dispatch_exit(std::span<std::byte> shared, const devices::Bus& ports,
                         const devices::Bus& mmio);

/// Whether this CPU can run guest code itself (VT-x or SVM); else KVM emulates it.
bool host_has_hardware_virtualization();

}  // namespace godwit::vmm
