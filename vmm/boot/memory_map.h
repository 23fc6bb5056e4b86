// The memory map a guest is told, in the numbering that E820 (Linux) and PVH share.
#pragma once

#include <cstdint>
#include <vector>

#include "vmm/memory/guest_memory.h"

namespace godwit::boot {

enum class MemoryType : std::uint32_t { kRam = 1, kReserved = 2 };

struct MemoryMapEntry {
  std::uint64_t address;
  std::uint64_t size;
  MemoryType type;
  bool operator==(const MemoryMapEntry&) const = default;
};

/// Ascending, without overlaps; RAM that holds ACPI tables is reserved.
std::vector<MemoryMapEntry> memory_map(const memory::GuestMemory& memory);

}  // namespace godwit::boot
