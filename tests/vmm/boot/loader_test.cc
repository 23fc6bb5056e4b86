#include "vmm/boot/loader.h"

#include <gtest/gtest.h>

#include "tests/vmm/tiny_guest.h"
#include "vmm/boot/layout.h"
#include "vmm/boot/memory_map.h"

namespace godwit::boot {
namespace {

using testing::TemporaryFile;

vmm::MachineConfig config_for(const std::string& kernel) {
  vmm::MachineConfig config;
  config.memory_bytes = 8 * kMiB;
  config.kernel = kernel;
  return config;
}

std::string error_of(const vmm::MachineConfig& config) {
  memory::GuestMemory memory(config.memory_bytes);
  try {
    load(config, memory);
  } catch (const std::runtime_error& error) {
    return error.what();
  }
  return "no error";
}

TEST(Loader, TellsAPvhGuestWhereEverythingIs) {
  const TemporaryFile kernel(testing::tiny_elf({0xf4}));
  const TemporaryFile initrd({1, 2, 3});
  auto config = config_for(kernel.path());
  config.initrd = initrd.path();
  config.command_line = "console=ttyS0";
  memory::GuestMemory memory(config.memory_bytes);
  const Entry entry = load(config, memory);
  EXPECT_EQ(entry.address, testing::kTinyEntry);
  const std::uint64_t info = entry.boot_info;
  EXPECT_EQ(memory.load<std::uint32_t>(info), 0x336ec578u);
  EXPECT_EQ(memory.load<std::uint32_t>(info + 12), 1u);  // modules
  const std::uint64_t module = memory.load<std::uint64_t>(info + 16).value();
  const std::uint64_t at = memory.load<std::uint64_t>(module).value();
  EXPECT_EQ(at, 8 * kMiB - memory::kPageSize);
  EXPECT_EQ(memory.load<std::uint64_t>(module + 8), 3u);
  EXPECT_EQ(memory.load<std::uint8_t>(at + 2), 3);
  const std::uint64_t line = memory.load<std::uint64_t>(info + 24).value();
  EXPECT_EQ(memory.load<char>(line + 7), '=');
  EXPECT_EQ(memory.load<char>(line + 13), '\0');
  EXPECT_EQ(memory.load<std::uint64_t>(memory.load<std::uint64_t>(info + 32).value()),
            0x2052545020445352u);  // "RSD PTR "
  EXPECT_EQ(memory.load<std::uint32_t>(info + 48), memory_map(memory).size());
}

TEST(Loader, NamesTheFileAndWhatIsWrongWithIt) {
  const TemporaryFile kernel(testing::tiny_elf({0xf4}));
  const TemporaryFile text({'h', 'e', 'l', 'l', 'o'});
  const TemporaryFile empty(std::vector<std::uint8_t>{});
  EXPECT_EQ(error_of(config_for("/nonexistent")), "kernel /nonexistent: No such file or directory");
  EXPECT_EQ(error_of(config_for("/dev/null")), "kernel /dev/null: not a regular file");
  EXPECT_EQ(error_of(config_for(text.path())),
            "kernel " + text.path() + ": neither a Linux bzImage nor a PVH ELF image");
  EXPECT_EQ(error_of(config_for(empty.path())),
            "kernel " + empty.path() + ": neither a Linux bzImage nor a PVH ELF image");
  auto config = config_for(kernel.path());
  config.initrd = empty.path();
  EXPECT_EQ(error_of(config), "initrd " + empty.path() + ": empty");
  const TemporaryFile large(std::vector<std::uint8_t>(8 * kMiB));
  config.initrd = large.path();
  EXPECT_NE(error_of(config).find("do not fit"), std::string::npos) << error_of(config);
  config.initrd.clear();
  config.command_line = std::string(kCommandLineMax, 'x');
  EXPECT_NE(error_of(config).find("65535"), std::string::npos) << error_of(config);
  config.command_line = std::string("a\0b", 3);
  EXPECT_NE(error_of(config).find("zero byte"), std::string::npos) << error_of(config);
}

TEST(Loader, PlacesTheInitrdClearOfTheKernel) {
  const memory::GuestMemory memory(8 * kMiB);
  LoadedKernel kernel;
  kernel.end = 4 * kMiB;
  kernel.initrd_max = UINT64_MAX;
  EXPECT_EQ(place_initrd(1, kernel, memory).address, 8 * kMiB - memory::kPageSize);
  EXPECT_EQ(place_initrd(4 * kMiB, kernel, memory).address, 4 * kMiB);
  EXPECT_THROW(place_initrd(4 * kMiB + 1, kernel, memory), ImageError);
  EXPECT_THROW(place_initrd(UINT64_MAX, kernel, memory), ImageError);
  kernel.initrd_max = 6 * kMiB - 1;
  EXPECT_EQ(place_initrd(kMiB, kernel, memory).address, 5 * kMiB);
  kernel.end = UINT64_MAX;
  EXPECT_THROW(place_initrd(1, kernel, memory), ImageError);
}

TEST(MemoryMap, LeavesHolesForFirmwareAndDevices) {
  const memory::GuestMemory small(8 * kMiB);
  const auto map = memory_map(small);
  EXPECT_EQ(map.back(), (MemoryMapEntry{kMiB, 7 * kMiB, MemoryType::kRam}));
  const memory::GuestMemory large(5 * kGiB);
  EXPECT_EQ(memory_map(large).back(), (MemoryMapEntry{4 * kGiB, 2 * kGiB, MemoryType::kRam}));
  EXPECT_EQ(memory_map(large)[3], (MemoryMapEntry{kMiB, 3 * kGiB - kMiB, MemoryType::kRam}));
}

}  // namespace
}  // namespace godwit::boot
