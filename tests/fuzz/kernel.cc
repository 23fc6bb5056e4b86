// The kernel loaders: bzImage and ELF.
#include "tests/fuzz/fuzz.h"
#include "vmm/boot/bzimage.h"
#include "vmm/boot/elf.h"

namespace godwit::fuzz {

std::vector<Bytes> fuzz_seeds() {
  Bytes elf(0x100 + 64);
  const auto put_at = [](Bytes& bytes, std::size_t at, auto value) {
    std::memcpy(&bytes[at], &value, sizeof value);
  };
  const Bytes ident = {0x7f, 'E', 'L', 'F', 2, 1, 1};
  std::copy(ident.begin(), ident.end(), elf.begin());
  put_at(elf, 16, std::uint16_t{2});   // executable
  put_at(elf, 18, std::uint16_t{62});  // x86-64
  put_at(elf, 20, std::uint32_t{1});
  put_at(elf, 24, std::uint64_t{0x100000});
  put_at(elf, 32, std::uint64_t{64});  // program headers
  put_at(elf, 52, std::uint16_t{64});
  put_at(elf, 54, std::uint16_t{56});
  put_at(elf, 56, std::uint16_t{2});
  put_at(elf, 64, std::uint32_t{1});  // PT_LOAD
  put_at(elf, 72, std::uint64_t{0xb0});
  put_at(elf, 80, std::uint64_t{0x100000});
  put_at(elf, 88, std::uint64_t{0x100000});
  put_at(elf, 96, std::uint64_t{16});
  put_at(elf, 104, std::uint64_t{4096});
  put_at(elf, 120, std::uint32_t{4});  // PT_NOTE
  put_at(elf, 128, std::uint64_t{0xc0});
  put_at(elf, 152, std::uint64_t{20});
  put_at(elf, 160, std::uint64_t{20});
  put_at(elf, 0xc0, std::uint32_t{4});  // "Xen", PHYS32_ENTRY
  put_at(elf, 0xc4, std::uint32_t{4});
  put_at(elf, 0xc8, std::uint32_t{18});
  put_at(elf, 0xcc, std::uint32_t{0x6e6558});
  put_at(elf, 0xd0, std::uint32_t{0x100000});
  Bytes bzimage(4096);
  bzimage[0x1f1] = 1;  // setup sectors
  put_at(bzimage, 0x1fe, std::uint16_t{0xaa55});
  put_at(bzimage, 0x202, std::uint32_t{0x53726448});  // HdrS
  put_at(bzimage, 0x206, std::uint16_t{0x020f});
  bzimage[0x211] = 1;  // loaded high
  put_at(bzimage, 0x22c, std::uint32_t{0x7fffffff});
  put_at(bzimage, 0x230, std::uint32_t{0x200000});
  bzimage[0x234] = 1;
  put_at(bzimage, 0x236, std::uint16_t{1});
  put_at(bzimage, 0x238, std::uint32_t{2047});
  put_at(bzimage, 0x248, std::uint32_t{64});
  put_at(bzimage, 0x24c, std::uint32_t{512});
  put_at(bzimage, 0x258, std::uint64_t{0x1000000});
  put_at(bzimage, 0x260, std::uint32_t{0x100000});
  std::copy(elf.begin(), elf.end(), bzimage.begin() + 1024 + 64);
  Bytes xz = bzimage;
  const Bytes magic = {0xfd, '7', 'z', 'X', 'Z', 0, 0, 4, 0xe6, 0xd6, 0xb4, 0x46};
  std::copy(magic.begin(), magic.end(), xz.begin() + 1024 + 64);
  return {elf, bzimage, xz};
}

}  // namespace godwit::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace godwit;
  memory::GuestMemory memory(64 << 20);
  const std::span<const std::byte> image = std::as_bytes(std::span(data, size));
  try {
    if (boot::is_bzimage(image)) {
      boot::load_bzimage(image, memory);
      boot::write_boot_params(image, {}, 0, memory);
    } else if (boot::is_elf(image)) {
      const boot::Elf elf = boot::parse_elf(image);
      boot::load_segments(elf, image, memory);
    }
  } catch (const boot::ImageError&) {
    return 0;
  }
  return 0;
}
