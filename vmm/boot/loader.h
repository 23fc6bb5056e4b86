// Puts everything a guest boots from into its RAM: kernel, initrd, command line, ACPI tables and
// the boot information that its kind of kernel expects. Any thread, before the guest runs.
#pragma once

#include "vmm/boot/entry.h"
#include "vmm/config.h"
#include "vmm/memory/guest_memory.h"

namespace godwit::boot {

/// `memory` must be fresh (all zero). Throws std::runtime_error with one line naming the file.
Entry load(const vmm::MachineConfig& config, memory::GuestMemory& memory);

/// Puts a new random ID where the ACPI tables say it is (kGenerationId).
void write_generation_id(memory::GuestMemory& memory);

/// Where the initrd goes: page-aligned, as high as `kernel` and 32-bit RAM allow, clear of the
/// kernel. Throws ImageError when it does not fit.
InitrdRange place_initrd(std::uint64_t size, const LoadedKernel& kernel,
                         const memory::GuestMemory& memory);

}  // namespace godwit::boot
