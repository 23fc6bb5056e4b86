// Executable ELF images (System V ABI; x86-64 and i386), as far as a boot loader cares: segments
// and the PVH entry note. The file is untrusted: every number is checked. Any thread.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "vmm/memory/guest_memory.h"

namespace godwit::boot {

struct ElfSegment {
  std::uint64_t file_offset;
  std::uint64_t file_size;
  std::uint64_t address;      // physical
  std::uint64_t memory_size;  // >= file_size
};

struct Elf {
  std::uint64_t entry = 0;                 // e_entry
  std::vector<ElfSegment> segments;        // PT_LOAD, not empty, each inside the file
  std::optional<std::uint32_t> pvh_entry;  // XEN_ELFNOTE_PHYS32_ENTRY
};

bool is_elf(std::span<const std::byte> image);

/// Throws ImageError saying what is wrong.
Elf parse_elf(std::span<const std::byte> image);

/// Copies the segments into fresh (all-zero) guest memory; returns the first address after them.
/// Throws ImageError when one lies below 1 MiB or does not fit.
std::uint64_t load_segments(const Elf& elf, std::span<const std::byte> image,
                            memory::GuestMemory& memory);

}  // namespace godwit::boot
