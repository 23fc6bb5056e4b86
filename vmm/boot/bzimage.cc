#include "vmm/boot/bzimage.h"

#include <fmt/core.h>

#include <algorithm>
#include <array>

#include "vmm/boot/bytes.h"
#include "vmm/boot/decompress.h"
#include "vmm/boot/elf.h"
#include "vmm/boot/layout.h"
#include "vmm/boot/memory_map.h"

namespace godwit::boot {
namespace {

// Offsets in the image's first sectors and in boot_params alike (boot.rst, "The real-mode kernel
// header" and zero-page.rst).
constexpr std::size_t kAcpiRsdpAddr = 0x070;
constexpr std::size_t kExtRamdiskImage = 0x0c0;
constexpr std::size_t kE820Entries = 0x1e8;
constexpr std::size_t kSetupHeader = 0x1f1;
constexpr std::size_t kSetupSects = 0x1f1;
constexpr std::size_t kBootFlag = 0x1fe;
constexpr std::size_t kJumpOffset = 0x201;  // the header ends this many bytes after 0x202
constexpr std::size_t kHeaderMagic = 0x202;
constexpr std::size_t kVersion = 0x206;
constexpr std::size_t kTypeOfLoader = 0x210;
constexpr std::size_t kLoadFlags = 0x211;
constexpr std::size_t kRamdiskImage = 0x218;
constexpr std::size_t kRamdiskSize = 0x21c;
constexpr std::size_t kCmdLinePtr = 0x228;
constexpr std::size_t kInitrdAddrMax = 0x22c;
constexpr std::size_t kXLoadFlags = 0x236;
constexpr std::size_t kCmdlineSize = 0x238;
constexpr std::size_t kPayloadOffset = 0x248;
constexpr std::size_t kPayloadLength = 0x24c;
constexpr std::size_t kPrefAddress = 0x258;
constexpr std::size_t kInitSize = 0x260;
constexpr std::size_t kE820Table = 0x2d0;
constexpr std::size_t kHeaderEndMax = kE820Table - 0x40;  // 0x290: the field after the header

constexpr std::uint16_t kBootFlagValue = 0xaa55;
constexpr std::uint32_t kHeaderMagicValue = 0x5372'6448;  // "HdrS"
constexpr std::uint16_t kOldestVersion = 0x020c;
constexpr std::uint8_t kLoadedHigh = 1 << 0;
constexpr std::uint8_t kKaslr = 1 << 1;
constexpr std::uint16_t kXlfKernel64 = 1 << 0;
constexpr std::uint16_t kXlfCanBeLoadedAbove4G = 1 << 1;
constexpr std::uint64_t kEntry64 = 0x200;
constexpr std::uint64_t kMaxUnpacked = 512 * kMiB;

template <typename T>
T field(std::span<const std::byte> image, std::size_t offset) {
  const auto value = peek<T>(image, offset);
  if (!value) throw ImageError("truncated bzImage header");
  return *value;
}

struct Parsed {
  std::span<const std::byte> kernel;   // protected-mode part
  std::span<const std::byte> payload;  // compressed vmlinux and its size
  std::uint64_t pref_address;
  std::uint64_t init_size;
};

Parsed parse(std::span<const std::byte> image) {
  if (!is_bzimage(image)) throw ImageError("not a bzImage");
  const auto version = field<std::uint16_t>(image, kVersion);
  if (version < kOldestVersion) {
    throw ImageError(fmt::format("boot protocol {}.{:02}; 2.12 (Linux 3.8) or later is needed",
                                 version >> 8, version & 0xff));
  }
  if ((field<std::uint16_t>(image, kXLoadFlags) & kXlfKernel64) == 0) {
    throw ImageError("a 32-bit kernel; only 64-bit ones are supported");
  }
  const unsigned sectors = field<std::uint8_t>(image, kSetupSects);
  const std::uint64_t kernel_at = ((sectors == 0 ? 4u : sectors) + 1) * 512u;
  if (kernel_at + kEntry64 >= image.size()) throw ImageError("truncated bzImage");
  const auto kernel = image.subspan(kernel_at);
  const auto payload = slice(kernel, field<std::uint32_t>(image, kPayloadOffset),
                             field<std::uint32_t>(image, kPayloadLength));
  if (!payload) throw ImageError("truncated bzImage: its payload is not all there");
  return {kernel, *payload, field<std::uint64_t>(image, kPrefAddress),
          field<std::uint32_t>(image, kInitSize)};
}

/// The boot protocol appends the unpacked size to the payload (gzip has it of its own).
std::uint64_t unpacked_size(std::span<const std::byte> payload) {
  if (payload.size() < 4) throw ImageError("bzImage without a payload");
  const std::uint64_t size = *peek<std::uint32_t>(payload, payload.size() - 4);
  if (size == 0 || size > kMaxUnpacked) {
    throw ImageError(fmt::format("a payload of {} MiB; at most {} are accepted", size / kMiB,
                                 kMaxUnpacked / kMiB));
  }
  return size;
}

}  // namespace

bool is_bzimage(std::span<const std::byte> image) {
  return peek<std::uint16_t>(image, kBootFlag) == kBootFlagValue &&
         peek<std::uint32_t>(image, kHeaderMagic) == kHeaderMagicValue;
}

LoadedKernel load_bzimage(std::span<const std::byte> image, memory::GuestMemory& memory) {
  const Parsed parsed = parse(image);
  LoadedKernel loaded;
  loaded.mode = Entry::Mode::kLong64;
  loaded.initrd_max = (field<std::uint16_t>(image, kXLoadFlags) & kXlfCanBeLoadedAbove4G) != 0
                          ? UINT64_MAX
                          : field<std::uint32_t>(image, kInitrdAddrMax);
  loaded.command_line_max = field<std::uint32_t>(image, kCmdlineSize);
  if (parsed.pref_address < kHighMemoryStart ||
      !memory.readable(parsed.pref_address, parsed.init_size)) {
    throw ImageError(fmt::format(
        "needs {} MiB of memory at {} MiB, which the guest does not have; give it more memory",
        (parsed.init_size + kMiB - 1) / kMiB, parsed.pref_address / kMiB));
  }
  loaded.end = parsed.pref_address + parsed.init_size;

  if (const auto compression = compression_of(parsed.payload)) {
    const auto unpacked = decompress(*compression, parsed.payload.first(parsed.payload.size() - 4),
                                     unpacked_size(parsed.payload));
    const Elf elf = parse_elf(unpacked);
    loaded.end = std::max(loaded.end, load_segments(elf, unpacked, memory));
    loaded.entry = elf.entry;
  } else {
    if (!memory.write(parsed.pref_address, parsed.kernel)) {
      throw ImageError("does not fit into the guest's memory; give it more");
    }
    loaded.entry = parsed.pref_address + kEntry64;
  }
  return loaded;
}

std::uint64_t write_boot_params(std::span<const std::byte> image, const InitrdRange& initrd,
                                std::uint64_t rsdp, memory::GuestMemory& memory) {
  std::array<std::byte, 4096> params = {};
  const std::size_t header_end =
      std::min(kHeaderMagic + field<std::uint8_t>(image, kJumpOffset), kHeaderEndMax);
  const auto header = slice(image, kSetupHeader, header_end - kSetupHeader);
  if (!header) throw ImageError("truncated bzImage header");
  std::copy(header->begin(), header->end(), params.begin() + kSetupHeader);

  poke<std::uint8_t>(params, kTypeOfLoader, 0xff);  // a loader without a number
  auto flags = field<std::uint8_t>(image, kLoadFlags);
  // Randomized placement is the unpacker's doing, which is not run here.
  flags = static_cast<std::uint8_t>((flags | kLoadedHigh) & ~kKaslr);
  poke(params, kLoadFlags, flags);
  poke(params, kRamdiskImage, static_cast<std::uint32_t>(initrd.address));
  poke(params, kExtRamdiskImage, static_cast<std::uint32_t>(initrd.address >> 32));
  poke(params, kRamdiskSize, static_cast<std::uint32_t>(initrd.size));
  poke(params, kCmdLinePtr, static_cast<std::uint32_t>(kCommandLine));
  poke(params, kAcpiRsdpAddr, rsdp);

  std::size_t at = kE820Table;
  std::uint8_t entries = 0;
  for (const MemoryMapEntry& entry : memory_map(memory)) {
    poke(params, at, entry.address);
    poke(params, at + 8, entry.size);
    poke(params, at + 16, static_cast<std::uint32_t>(entry.type));
    at += 20;
    ++entries;
  }
  poke(params, kE820Entries, entries);
  if (!memory.write(kZeroPage, params)) throw ImageError("no memory for boot_params");
  return kZeroPage;
}

void write_long_mode_tables(memory::GuestMemory& memory) {
  constexpr std::uint64_t kPresentWritable = 0x3;
  constexpr std::uint64_t kLargePage = 0x80;
  constexpr unsigned kDirectories = 4;  // one GiB each
  std::array<std::uint64_t, 512 * (2 + kDirectories)> tables = {};
  static_assert(kPageTables + sizeof tables <= kPageTablesEnd);
  tables[0] = (kPageTables + 0x1000) | kPresentWritable;
  for (unsigned i = 0; i < kDirectories; ++i) {
    tables[512 + i] = (kPageTables + (2 + i) * 0x1000u) | kPresentWritable;
  }
  for (std::uint64_t i = 0; i < 512 * kDirectories; ++i) {
    tables[1024 + i] = (i << 21) | kPresentWritable | kLargePage;
  }
  // Flat segments, Intel SDM 3A 3.4.5: execute/read with L, read/write with D; 0x08 is left empty.
  constexpr std::array<std::uint64_t, 4> kSegments = {0, 0, 0x00af'9b00'0000'ffff,
                                                      0x00cf'9300'0000'ffff};
  if (!memory.write(kPageTables, std::as_bytes(std::span(tables))) ||
      !memory.write(kGdt, std::as_bytes(std::span(kSegments)))) {
    throw ImageError("no memory for page tables");
  }
}

}  // namespace godwit::boot
