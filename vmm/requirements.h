// What a guest needs of its host, as JSON text that travels to the destination of a move, and the
// comparison there. The text comes from a peer and is not trusted. Any thread.
#pragma once

#include <string>

#include "vmm/clock.h"
#include "vmm/cpuid.h"
#include "vmm/kvm/kvm.h"

namespace godwit::vmm {

struct Requirements {
  CpuidEntries cpuid;  // of vCPU 0
  unsigned cpus = 1;
  std::uint32_t tsc_khz = 0;  // 0: not known
};

std::string to_json(const Requirements& requirements);
/// Throws std::runtime_error.
Requirements requirements_from_json(const std::string& text);

/// One line naming everything that is missing; empty when nothing is.
std::string refusal_of(const Requirements& needed, const CpuidEntries& offered, const HostTsc& tsc);

/// Throws std::runtime_error naming the KVM capabilities that this host lacks and every guest
/// needs.
void check_host(const kvm::Kvm& kvm);

}  // namespace godwit::vmm
