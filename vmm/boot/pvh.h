// The PVH boot protocol (Xen's docs/misc/pvh.pandoc, public/arch-x86/hvm/start_info.h): an ELF
// image with a 32-bit entry, entered in protected mode with hvm_start_info in EBX. The file is
// untrusted.
#pragma once

#include <cstddef>
#include <span>

#include "vmm/boot/entry.h"
#include "vmm/memory/guest_memory.h"

namespace godwit::boot {

/// Throws ImageError.
LoadedKernel load_pvh(std::span<const std::byte> image, memory::GuestMemory& memory);

/// Writes hvm_start_info with memory map and, if there is one, the initrd as module 0; the command
/// line is at kCommandLine already. Returns its address.
std::uint64_t write_start_info(const InitrdRange& initrd, std::uint64_t rsdp,
                               memory::GuestMemory& memory);

}  // namespace godwit::boot
