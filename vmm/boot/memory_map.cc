#include "vmm/boot/memory_map.h"

#include "vmm/boot/layout.h"

namespace godwit::boot {

std::vector<MemoryMapEntry> memory_map(const memory::GuestMemory& memory) {
  std::vector<MemoryMapEntry> map = {
      {0, kLowMemoryEnd, MemoryType::kRam},
      {kLowMemoryEnd, 0xa'0000 - kLowMemoryEnd, MemoryType::kReserved},
      {kAcpiTables, kAcpiTablesEnd - kAcpiTables, MemoryType::kReserved},
  };
  for (const memory::Region& region : memory.regions()) {
    const std::uint64_t end = region.guest_addr + region.size;
    const std::uint64_t start = region.guest_addr == 0 ? kHighMemoryStart : region.guest_addr;
    if (start < end) map.push_back({start, end - start, MemoryType::kRam});
  }
  return map;
}

}  // namespace godwit::boot
