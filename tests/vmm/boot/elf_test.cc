#include "vmm/boot/elf.h"

#include <elf.h>
#include <gtest/gtest.h>

#include <random>

#include "tests/vmm/tiny_guest.h"
#include "vmm/boot/entry.h"
#include "vmm/boot/layout.h"
#include "vmm/boot/pvh.h"

namespace godwit::boot {
namespace {

using Image = std::vector<std::uint8_t>;

std::span<const std::byte> bytes(const Image& image) { return std::as_bytes(std::span(image)); }

Image good() { return testing::tiny_elf({0xf4, 0xeb, 0xfd}); }

Elf64_Ehdr& header(Image& image) { return *reinterpret_cast<Elf64_Ehdr*>(image.data()); }
Elf64_Phdr& load_of(Image& image) {
  return *reinterpret_cast<Elf64_Phdr*>(image.data() + header(image).e_phoff);
}

std::string error_of(const Image& image, std::uint64_t memory_size = 4 * kMiB) {
  memory::GuestMemory memory(memory_size);
  try {
    load_pvh(bytes(image), memory);
  } catch (const ImageError& error) {
    return error.what();
  }
  return "no error";
}

TEST(Elf, LoadsASegmentAndFindsThePvhEntry) {
  memory::GuestMemory memory(4 * kMiB);
  const LoadedKernel kernel = load_pvh(bytes(good()), memory);
  EXPECT_EQ(kernel.mode, Entry::Mode::kProtected32);
  EXPECT_EQ(kernel.entry, testing::kTinyEntry);
  EXPECT_EQ(kernel.end, testing::kTinyEntry + 3);
  EXPECT_EQ(memory.load<std::uint8_t>(testing::kTinyEntry), 0xf4);
}

TEST(Elf, RefusesEveryTruncation) {
  const Image image = good();
  for (std::size_t size = 0; size < image.size(); ++size) {
    const Image cut(image.begin(), image.begin() + static_cast<std::ptrdiff_t>(size));
    EXPECT_NE(error_of(cut), "no error") << size;
  }
}

TEST(Elf, NamesWhatIsWrong) {
  Image image = good();
  header(image).e_machine = EM_AARCH64;
  EXPECT_EQ(error_of(image), "ELF image for another machine than x86");
  image = good();
  header(image).e_type = ET_REL;
  EXPECT_EQ(error_of(image), "ELF image that is not executable");
  image = good();
  load_of(image).p_filesz = load_of(image).p_memsz + 1;
  EXPECT_NE(error_of(image), "no error");
  image = good();
  load_of(image).p_paddr = 0x8000;
  EXPECT_EQ(error_of(image), "a segment at 0x8000: below 1 MiB is not free");
  image = good();
  load_of(image).p_memsz = 16 * kMiB;
  EXPECT_NE(error_of(image).find("give it more memory"), std::string::npos);
  image = good();
  image[image.size() - 3 - 12] = 'Y';  // the note's owner
  EXPECT_NE(error_of(image).find("without a PVH entry"), std::string::npos) << error_of(image);
  image = good();
  load_of(image).p_type = PT_NULL;
  EXPECT_EQ(error_of(image), "ELF image without a segment to load");
}

TEST(Elf, SurvivesNumbersThatOverflow) {
  for (const std::uint64_t huge :
       {UINT64_MAX, UINT64_MAX - 1, UINT64_MAX - 4095, UINT64_MAX / 2 + 1}) {
    Image image = good();
    header(image).e_phoff = huge;
    EXPECT_NE(error_of(image), "no error");
    image = good();
    load_of(image).p_offset = huge;
    EXPECT_NE(error_of(image), "no error");
    image = good();
    load_of(image).p_filesz = load_of(image).p_memsz = huge;
    EXPECT_NE(error_of(image), "no error");
    image = good();
    load_of(image).p_paddr = huge;
    EXPECT_NE(error_of(image), "no error");
    image = good();
    load_of(image).p_memsz = huge;
    EXPECT_NE(error_of(image), "no error");
  }
}

// Whatever the bytes say, the outcome is an image or an ImageError.
TEST(Elf, SurvivesRandomDamage) {
  std::mt19937 random(7);
  const Image image = good();
  memory::GuestMemory memory(4 * kMiB);
  for (int round = 0; round < 20'000; ++round) {
    Image damaged = image;
    for (unsigned n = 1 + random() % 4; n != 0; --n) {
      damaged[random() % damaged.size()] = static_cast<std::uint8_t>(random());
    }
    try {
      load_pvh(bytes(damaged), memory);
    } catch (const ImageError&) {
    }
  }
}

}  // namespace
}  // namespace godwit::boot
