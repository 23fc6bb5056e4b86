#include "vmm/boot/pvh.h"

#include "vmm/boot/elf.h"
#include "vmm/boot/layout.h"
#include "vmm/boot/memory_map.h"

namespace godwit::boot {
namespace {

constexpr std::uint32_t kStartMagic = 0x336e'c578;

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
static_assert(sizeof(StartInfo) == 56);

struct Module {
  std::uint64_t paddr;
  std::uint64_t size;
  std::uint64_t cmdline_paddr;
  std::uint64_t reserved;
};
static_assert(sizeof(Module) == 32);

struct MemmapEntry {
  std::uint64_t addr;
  std::uint64_t size;
  std::uint32_t type;
  std::uint32_t reserved;
};
static_assert(sizeof(MemmapEntry) == 24);

}  // namespace

LoadedKernel load_pvh(std::span<const std::byte> image, memory::GuestMemory& memory) {
  const Elf elf = parse_elf(image);
  if (!elf.pvh_entry) {
    throw ImageError("ELF image without a PVH entry (for Linux: build with CONFIG_PVH=y)");
  }
  LoadedKernel loaded;
  loaded.mode = Entry::Mode::kProtected32;
  loaded.entry = *elf.pvh_entry;
  loaded.end = load_segments(elf, image, memory);
  loaded.initrd_max = kLowRamEnd - 1;  // the guest starts with 32-bit addresses
  loaded.command_line_max = kCommandLineMax - 1;
  return loaded;
}

std::uint64_t write_start_info(const InitrdRange& initrd, std::uint64_t rsdp,
                               memory::GuestMemory& memory) {
  constexpr std::uint64_t kModuleAt = kStartInfo + sizeof(StartInfo);
  constexpr std::uint64_t kMemmapAt = kModuleAt + sizeof(Module);
  StartInfo info = {};
  info.magic = kStartMagic;
  info.version = 1;
  info.cmdline_paddr = kCommandLine;
  info.rsdp_paddr = rsdp;
  info.memmap_paddr = kMemmapAt;
  bool written = true;
  if (initrd.size != 0) {
    info.nr_modules = 1;
    info.modlist_paddr = kModuleAt;
    written = memory.store(kModuleAt, Module{initrd.address, initrd.size, 0, 0});
  }
  for (const MemoryMapEntry& entry : memory_map(memory)) {
    const MemmapEntry raw = {entry.address, entry.size, static_cast<std::uint32_t>(entry.type), 0};
    written = written && memory.store(kMemmapAt + info.memmap_entries * sizeof raw, raw);
    ++info.memmap_entries;
  }
  if (!written || !memory.store(kStartInfo, info)) throw ImageError("no memory for start_info");
  return kStartInfo;
}

}  // namespace godwit::boot
