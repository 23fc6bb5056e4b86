// What the loader tells a PVH guest (Xen public/arch-x86/hvm/start_info.h).
#pragma once

#include <cstdint>

namespace guest {

struct StartInfo {
  std::uint32_t magic;
  std::uint32_t version;
  std::uint32_t flags;
  std::uint32_t nr_modules;
  std::uint64_t modlist_paddr;
  std::uint64_t cmdline_paddr;
  std::uint64_t rsdp_paddr;
  std::uint64_t memmap_paddr;
  std::uint32_t memmap_entries;
  std::uint32_t reserved;
};
inline constexpr std::uint32_t kStartMagic = 0x336e'c578;

extern const StartInfo* start_info;

}  // namespace guest
