// A block device on a scratch image, its wiring, and a driver for it.
#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <array>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "tests/vmm/devices/virtio/driver.h"
#include "vmm/devices/virtio/blk.h"

namespace godwit::devices {

class ScratchFile {
 public:
  explicit ScratchFile(std::uint64_t size) {
    std::string name = std::filesystem::temp_directory_path() / "godwit-test-XXXXXX";
    const sys::UniqueFd fd(::mkstemp(name.data()));
    EXPECT_TRUE(fd);
    EXPECT_EQ(::ftruncate(fd.get(), static_cast<off_t>(size)), 0);
    path = name;
  }
  ~ScratchFile() { ::unlink(path.c_str()); }
  ScratchFile(const ScratchFile&) = delete;
  ScratchFile& operator=(const ScratchFile&) = delete;

  std::vector<char> read(std::uint64_t offset, std::size_t size) const {
    std::vector<char> bytes(size);
    const sys::UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
    EXPECT_EQ(::pread(fd.get(), bytes.data(), size, static_cast<off_t>(offset)),
              static_cast<ssize_t>(size));
    return bytes;
  }
  void write(std::uint64_t offset, const std::vector<char>& bytes) const {
    const sys::UniqueFd fd(::open(path.c_str(), O_WRONLY | O_CLOEXEC));
    EXPECT_EQ(::pwrite(fd.get(), bytes.data(), bytes.size(), static_cast<off_t>(offset)),
              static_cast<ssize_t>(bytes.size()));
  }
  std::string path;
};

constexpr std::uint64_t kBar = 0xc001'0000;
constexpr std::uint64_t kImageSize = 8 << 20;
constexpr std::uint64_t kImageSectors = kImageSize / 512;

constexpr std::uint32_t kBlkIn = 0, kBlkOut = 1, kBlkFlush = 4, kBlkGetId = 8, kBlkDiscard = 11,
                        kBlkWriteZeroes = 13;
constexpr std::uint8_t kBlkOk = 0, kBlkIoError = 1, kBlkUnsupported = 2;

/// Everything one side of a move has; two of them share an image.
struct BlkMachine {
  explicit BlkMachine(const std::string& path, bool read_only = false,
                      IoEngine::Kind engine = IoEngine::Kind::kBest, bool direct = false)
      : image(path, read_only, direct), blk(image, "serial-number", engine) {}
  memory::GuestMemory memory{16 << 20};
  FakeVectors vectors;
  FakeDoorbells doorbells;
  DiskImage image;
  VirtioBlk blk;
  VirtioPci device{blk, memory, vectors, doorbells, kBar};
  Registers registers{device};
};

/// Issues requests on queue 0 and waits for them. Guest RAM: ring at 1 MiB, headers and statuses at
/// 2 MiB, data where the test likes.
class BlkDriver {
 public:
  static constexpr std::uint64_t kRing = 1 << 20, kHeaders = 2 << 20;

  explicit BlkDriver(BlkMachine& machine) : machine_(&machine), ring(machine.memory, kRing, 256) {}

  std::uint8_t bring_up(std::uint64_t features = ~0ULL) {
    const std::uint64_t offered = machine_->registers.features();
    machine_->registers.enable_msix(2);
    return devices::bring_up(machine_->registers, ring, offered & features);
  }

  /// Lays out a request at descriptor `first` and returns the address of its status byte.
  std::uint64_t prepare(std::uint16_t first, std::uint32_t type, std::uint64_t sector,
                        const std::vector<Buffer>& data) {
    auto& memory = machine_->memory;
    const std::uint64_t header = kHeaders + 64 * std::uint64_t{first};
    memory.store(header, type);
    memory.store(header + 4, std::uint32_t{0});
    memory.store(header + 8, sector);
    memory.store(header + 32, std::uint8_t{0xee});
    std::vector<Buffer> buffers = {{header, 16}};
    buffers.insert(buffers.end(), data.begin(), data.end());
    buffers.push_back({header + 32, 1, true});
    ring.set_chain(first, buffers);
    return header + 32;
  }

  void kick() { write_as<std::uint16_t>(machine_->device, machine_->registers.notify, 0); }

  bool wait_used(std::uint16_t index) {
    return eventually([&] { return ring.used_index() == index; });
  }

  /// One request from start to end; its status, or 0xff when it never came back.
  std::uint8_t request(std::uint32_t type, std::uint64_t sector, const std::vector<Buffer>& data) {
    const std::uint64_t status = prepare(0, type, sector, data);
    const auto before = ring.used_index();
    ring.offer(0);
    kick();
    if (!wait_used(static_cast<std::uint16_t>(before + 1))) return 0xff;
    last_length = ring.used_length(before);
    return *machine_->memory.load<std::uint8_t>(status);
  }

  void fill(std::uint64_t address, std::size_t size, char value) {
    const std::vector<char> bytes(size, value);
    machine_->memory.write(address, std::as_bytes(std::span(bytes)));
  }
  std::vector<char> bytes(std::uint64_t address, std::size_t size) {
    std::vector<char> out(size);
    machine_->memory.read(address, std::as_writable_bytes(std::span(out)));
    return out;
  }

  BlkMachine* machine_;
  DriverRing ring;
  std::uint32_t last_length = 0;
};

}  // namespace godwit::devices
