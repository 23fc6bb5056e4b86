#include "vmm/exit.h"

#include <gtest/gtest.h>

#include <array>

#include "vmm/devices/device.h"

namespace godwit::vmm {
namespace {

/// Answers reads with one byte after the other and records writes.
class Recorder final : public devices::Device {
 public:
  std::string_view kind() const override { return "recorder"; }
  void read(std::uint64_t offset, std::span<std::byte> data) override {
    offsets.push_back(offset);
    for (std::byte& b : data) b = static_cast<std::byte>(next++);
  }
  void write(std::uint64_t offset, std::span<const std::byte> data) override {
    offsets.push_back(offset);
    written.insert(written.end(), data.begin(), data.end());
  }
  void save(StateWriter&, std::uint32_t) const override {}
  void restore(StateReader&, std::uint32_t) override {}

  std::uint8_t next = 1;
  std::vector<std::uint64_t> offsets;
  std::vector<std::byte> written;
};

class ExitTest : public ::testing::Test {
 protected:
  ExitTest() {
    ports_.attach(0x100, 8, device_);
    mmio_.attach(0x1000, 0x100, device_);
  }
  kvm_run& run() { return *reinterpret_cast<kvm_run*>(shared_.data()); }
  std::byte* data() { return shared_.data() + kDataAt; }
  ExitResult dispatch() { return dispatch_exit(shared_, ports_, mmio_); }
  void port_access(std::uint8_t direction, std::uint8_t size, std::uint32_t count,
                   std::uint64_t data_offset = kDataAt) {
    run().exit_reason = KVM_EXIT_IO;
    run().io.direction = direction;
    run().io.size = size;
    run().io.port = 0x102;
    run().io.count = count;
    run().io.data_offset = data_offset;
  }

  static constexpr std::uint64_t kDataAt = 4096;
  Recorder device_;
  devices::Bus ports_, mmio_;
  alignas(kvm_run) std::array<std::byte, 8192> shared_ = {};
};

TEST_F(ExitTest, ServesEveryPieceOfAStringAccess) {
  port_access(KVM_EXIT_IO_IN, 2, 3);
  EXPECT_EQ(dispatch().kind, ExitResult::Kind::kContinue);
  EXPECT_EQ(device_.offsets, (std::vector<std::uint64_t>{2, 2, 2}));
  EXPECT_EQ(data()[5], std::byte{6});
  data()[0] = std::byte{0xaa};
  port_access(KVM_EXIT_IO_OUT, 1, 1);
  dispatch();
  EXPECT_EQ(device_.written, (std::vector<std::byte>{std::byte{0xaa}}));
}

TEST_F(ExitTest, ReadsAndWritesMemoryMappedDevices) {
  run().exit_reason = KVM_EXIT_MMIO;
  run().mmio.phys_addr = 0x1010;
  run().mmio.len = 4;
  run().mmio.is_write = 0;
  dispatch();
  EXPECT_EQ(run().mmio.data[3], 4);
  run().mmio.is_write = 1;
  dispatch();
  EXPECT_EQ(device_.written.size(), 4u);
  EXPECT_EQ(device_.offsets, (std::vector<std::uint64_t>{0x10, 0x10}));
}

TEST_F(ExitTest, NeverLeavesTheSharedPages) {
  port_access(KVM_EXIT_IO_IN, 4, 0xffff'ffff);
  EXPECT_EQ(dispatch().kind, ExitResult::Kind::kFailed);
  port_access(KVM_EXIT_IO_IN, 4, 1, UINT64_MAX - 1);
  EXPECT_EQ(dispatch().kind, ExitResult::Kind::kFailed);
  port_access(KVM_EXIT_IO_IN, 4, 1, 8190);
  EXPECT_EQ(dispatch().kind, ExitResult::Kind::kFailed);
  EXPECT_TRUE(device_.offsets.empty());
}

TEST_F(ExitTest, SaysInOneLineWhyAGuestEnded) {
  run().exit_reason = KVM_EXIT_SHUTDOWN;
  EXPECT_EQ(dispatch().why, "the guest crashed: a vCPU took a triple fault");
  for (const std::uint32_t reason : {KVM_EXIT_FAIL_ENTRY, KVM_EXIT_INTERNAL_ERROR, 4711}) {
    run().exit_reason = reason;
    const ExitResult result = dispatch();
    EXPECT_EQ(result.kind, ExitResult::Kind::kFailed);
    EXPECT_FALSE(result.why.empty());
    EXPECT_EQ(result.why.find('\n'), std::string::npos);
  }
  run().exit_reason = KVM_EXIT_INTERNAL_ERROR;
  run().internal.suberror = KVM_INTERNAL_ERROR_EMULATION;
  const bool emulates = dispatch().why.find("emulates guest code") != std::string::npos;
  EXPECT_NE(emulates, host_has_hardware_virtualization());
}

}  // namespace
}  // namespace godwit::vmm
