#include "vmm/boot/bzimage.h"

#include <gtest/gtest.h>
#include <lzma.h>
#include <zstd.h>

#include <cstring>
#include <random>

#include "tests/vmm/tiny_guest.h"
#include "vmm/boot/layout.h"

namespace godwit::boot {
namespace {

using Image = std::vector<std::uint8_t>;

std::span<const std::byte> bytes(const Image& image) { return std::as_bytes(std::span(image)); }

template <typename T>
void put(Image& image, std::size_t offset, T value) {
  std::memcpy(image.data() + offset, &value, sizeof value);
}

Image pack_zstd(const Image& in) {
  Image out(ZSTD_compressBound(in.size()));
  out.resize(ZSTD_compress(out.data(), out.size(), in.data(), in.size(), 3));
  return out;
}

Image pack_xz(const Image& in) {
  Image out(in.size() + 1024);
  std::size_t size = 0;
  if (lzma_easy_buffer_encode(1, LZMA_CHECK_CRC32, nullptr, in.data(), in.size(), out.data(), &size,
                              out.size()) != LZMA_OK) {
    throw std::runtime_error("lzma_easy_buffer_encode");
  }
  out.resize(size);
  return out;
}

/// A bzImage whose payload is `packed`, which unpacks to `unpacked_size` bytes.
Image bzimage(const Image& packed, std::size_t unpacked_size) {
  constexpr std::size_t kSetup = 1024, kPayloadAt = 0x400;
  Image image(kSetup + kPayloadAt);
  image[0x1f1] = 1;  // setup sectors
  put<std::uint16_t>(image, 0x1fe, 0xaa55);
  image[0x201] = 0x66;
  std::memcpy(image.data() + 0x202, "HdrS", 4);
  put<std::uint16_t>(image, 0x206, 0x020f);
  put<std::uint32_t>(image, 0x22c, 0x7fff'ffff);
  put<std::uint16_t>(image, 0x236, 1);
  put<std::uint32_t>(image, 0x238, 2047);
  put<std::uint32_t>(image, 0x248, kPayloadAt);
  put<std::uint32_t>(image, 0x24c, static_cast<std::uint32_t>(packed.size() + 4));
  put<std::uint64_t>(image, 0x258, kMiB);
  put<std::uint32_t>(image, 0x260, 2 * kMiB);
  image.insert(image.end(), packed.begin(), packed.end());
  image.resize(image.size() + 4);
  put<std::uint32_t>(image, image.size() - 4, static_cast<std::uint32_t>(unpacked_size));
  return image;
}

Image vmlinux() { return testing::tiny_elf({0xf4, 0xeb, 0xfd}); }

std::string error_of(const Image& image, std::uint64_t memory_size = 8 * kMiB) {
  memory::GuestMemory memory(memory_size);
  try {
    load_bzimage(bytes(image), memory);
  } catch (const ImageError& error) {
    return error.what();
  }
  return "no error";
}

TEST(BzImage, UnpacksXzAndZstdOnTheHost) {
  for (const Image& packed : {pack_xz(vmlinux()), pack_zstd(vmlinux())}) {
    memory::GuestMemory memory(8 * kMiB);
    const LoadedKernel kernel = load_bzimage(bytes(bzimage(packed, vmlinux().size())), memory);
    EXPECT_EQ(kernel.mode, Entry::Mode::kLong64);
    EXPECT_EQ(kernel.entry, testing::kTinyEntry);
    EXPECT_EQ(kernel.end, 3 * kMiB);  // what init_size asks for
    EXPECT_EQ(memory.load<std::uint8_t>(testing::kTinyEntry), 0xf4);
  }
}

TEST(BzImage, LeavesOtherCompressionsToTheGuest) {
  memory::GuestMemory memory(8 * kMiB);
  const LoadedKernel kernel = load_bzimage(bytes(bzimage(Image(100, 0x55), 200)), memory);
  EXPECT_EQ(kernel.entry, kMiB + 0x200);
  EXPECT_EQ(memory.load<std::uint8_t>(kMiB + 0x400), 0x55);
}

TEST(BzImage, WritesBootParams) {
  const Image image = bzimage(pack_zstd(vmlinux()), vmlinux().size());
  memory::GuestMemory memory(std::uint64_t{4} * kGiB);
  const std::uint64_t at = write_boot_params(bytes(image), {0x12'3000, 77}, kAcpiTables, memory);
  EXPECT_EQ(at, kZeroPage);
  EXPECT_EQ(memory.load<std::uint32_t>(at + 0x218), 0x12'3000u);
  EXPECT_EQ(memory.load<std::uint32_t>(at + 0x21c), 77u);
  EXPECT_EQ(memory.load<std::uint32_t>(at + 0x228), kCommandLine);
  EXPECT_EQ(memory.load<std::uint64_t>(at + 0x70), kAcpiTables);
  EXPECT_EQ(memory.load<std::uint8_t>(at + 0x210), 0xff);
  const unsigned entries = memory.load<std::uint8_t>(at + 0x1e8).value();
  EXPECT_EQ(entries, 5u);
  const std::uint64_t last = at + 0x2d0 + 20 * (entries - 1);
  EXPECT_EQ(memory.load<std::uint64_t>(last), 4 * kGiB);
  EXPECT_EQ(memory.load<std::uint64_t>(last + 8), kGiB);
}

TEST(BzImage, NamesWhatIsWrong) {
  const Image good = bzimage(pack_zstd(vmlinux()), vmlinux().size());
  ASSERT_EQ(error_of(good), "no error");
  EXPECT_NE(error_of(good, 2 * kMiB).find("give it more memory"), std::string::npos);
  Image image = good;
  put<std::uint16_t>(image, 0x206, 0x0208);
  EXPECT_EQ(error_of(image), "boot protocol 2.08; 2.12 (Linux 3.8) or later is needed");
  image = good;
  put<std::uint16_t>(image, 0x236, 0);
  EXPECT_EQ(error_of(image), "a 32-bit kernel; only 64-bit ones are supported");
  image = good;
  put<std::uint32_t>(image, 0x24c, 0xffff'ffff);
  EXPECT_EQ(error_of(image), "truncated bzImage: its payload is not all there");
  image = good;
  put<std::uint32_t>(image, image.size() - 4, 0xffff'ffff);  // a bomb's promise
  EXPECT_NE(error_of(image).find("at most 512"), std::string::npos);
  image = good;
  put<std::uint32_t>(image, image.size() - 4, 16);  // smaller than what is in it
  EXPECT_NE(error_of(image).find("damaged"), std::string::npos) << error_of(image);
  image = bzimage(pack_xz(Image(5000, 'x')), 5000);
  EXPECT_EQ(error_of(image), "not an ELF image");
}

TEST(BzImage, RefusesEveryTruncation) {
  for (const Image& packed : {pack_xz(vmlinux()), pack_zstd(vmlinux())}) {
    const Image image = bzimage(packed, vmlinux().size());
    for (std::size_t size = 0; size < image.size(); ++size) {
      const Image cut(image.begin(), image.begin() + static_cast<std::ptrdiff_t>(size));
      EXPECT_NE(error_of(cut), "no error") << size;
    }
  }
}

TEST(BzImage, SurvivesRandomDamage) {
  std::mt19937 random(3);
  memory::GuestMemory memory(8 * kMiB);
  for (const Image& packed : {pack_xz(vmlinux()), pack_zstd(vmlinux())}) {
    const Image image = bzimage(packed, vmlinux().size());
    for (int round = 0; round < 1'000; ++round) {
      Image damaged = image;
      // In the header or in the payload, not in the gap between.
      const bool in_header = random() % 2 == 0;
      const std::size_t at =
          in_header ? 0x1f1 + random() % 0x80 : damaged.size() - 1 - random() % (packed.size() + 4);
      damaged[at] = static_cast<std::uint8_t>(random());
      try {
        load_bzimage(bytes(damaged), memory);
        write_boot_params(bytes(damaged), {}, kAcpiTables, memory);
      } catch (const ImageError&) {
      }
    }
  }
}

}  // namespace
}  // namespace godwit::boot
