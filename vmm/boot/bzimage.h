// Linux bzImages by the 64-bit boot protocol (Documentation/arch/x86/boot.rst, 2.12 and later). XZ
// and ZSTD payloads are unpacked here, on the host, and entered at their ELF entry; other kernels
// unpack themselves in the guest. The file is untrusted.
#pragma once

#include <cstddef>
#include <span>

#include "vmm/boot/entry.h"
#include "vmm/memory/guest_memory.h"

namespace godwit::boot {

bool is_bzimage(std::span<const std::byte> image);

/// Loads the kernel proper. Throws ImageError.
LoadedKernel load_bzimage(std::span<const std::byte> image, memory::GuestMemory& memory);

/// Writes boot_params; the command line is at kCommandLine already. Returns their address. `image`
/// is what load_bzimage() took.
std::uint64_t write_boot_params(std::span<const std::byte> image, const InitrdRange& initrd,
                                std::uint64_t rsdp, memory::GuestMemory& memory);

/// Page tables (identity map of 4 GiB, 2 MiB pages) at kPageTables and a GDT with CS 0x10 and DS
/// 0x18 at kGdt, as the 64-bit entry wants them.
void write_long_mode_tables(memory::GuestMemory& memory);

}  // namespace godwit::boot
