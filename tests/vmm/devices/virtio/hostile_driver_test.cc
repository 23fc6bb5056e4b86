// A driver that means harm: random registers, random rings, random requests, random resets, for a
// bounded number of steps. Nothing is expected of the device but that it lives, that it touches no
// byte outside the guest (the sanitizers watch), and that after a reset it serves an honest driver.
#include <gtest/gtest.h>

#include <random>

#include "tests/vmm/devices/virtio/blk_fixture.h"

namespace godwit::devices {
namespace {

class HostileDriverTest : public testing::TestWithParam<unsigned> {
 protected:
  std::uint64_t pick(std::uint64_t below) { return random_() % below; }

  /// Values that matter more often than chance would have it.
  std::uint64_t value() {
    constexpr std::uint64_t kEdges[] = {0,        1,          2,          3,         15,    16,
                                        0xff,     0x100,      0xffff,     0x8000,    ~0ULL, 1 << 20,
                                        16 << 20, 0xffffffff, 0x7fffffff, 0xc0010000};
    return pick(2) == 0 ? kEdges[pick(std::size(kEdges))] : random_();
  }
  std::uint64_t address() {
    switch (pick(4)) {
      case 0:
        return pick(16 << 20);
      case 1:
        return (16 << 20) - pick(64);
      case 2:
        return BlkDriver::kHeaders + pick(4096);
      default:
        return value();
    }
  }

  void access(Device& device, std::uint64_t offset) {
    std::array<std::byte, 8> bytes;
    const std::uint64_t data = value();
    store_le(bytes, data);
    const auto size = std::size_t{1} << pick(4);
    if (pick(2) == 0) {
      device.write(offset, std::span<const std::byte>(bytes).first(size));
    } else {
      device.read(offset, std::span(bytes).first(size));
    }
  }

  void register_step() {
    auto& device = machine_.device;
    switch (pick(8)) {
      case 0:
        access(device, pick(VirtioPci::kBarSize));
        break;
      case 1:
        access(device, value());
        break;
      case 2:
        device.write_config(static_cast<unsigned>(pick(256)), 1U << pick(3),
                            static_cast<std::uint32_t>(value()));
        break;
      case 3:
        device.read_config(static_cast<unsigned>(pick(256)), 1U << pick(3));
        break;
      case 4:
        access(device, 0x4000 + pick(64));
        break;
      case 5:
        machine_.registers.set_status(static_cast<std::uint8_t>(pick(256)));
        break;
      case 6:
        driver_.kick();
        break;
      default:
        access(device, pick(64));
    }
  }

  /// Fills the descriptor table, an indirect table, headers and the available ring with near-sense.
  void scramble() {
    auto& memory = machine_.memory;
    const std::uint64_t indirect = 3 << 20;
    for (std::uint16_t i = 0; i < 256; ++i) {
      const auto flags = static_cast<std::uint16_t>(pick(8) == 0 ? random_() : pick(4));
      const auto length =
          static_cast<std::uint32_t>(pick(3) == 0 ? value() : 512 * pick(9) + pick(2) * 16);
      const bool table = pick(10) == 0;
      driver_.ring.set_descriptor(i, table ? indirect : address(),
                                  table ? 16 * static_cast<std::uint32_t>(pick(300)) : length,
                                  table ? kDescIndirect : flags,
                                  static_cast<std::uint16_t>(pick(20) == 0 ? random_() : i + 1));
      driver_.ring.set_descriptor_at(indirect + 16 * i, address(), length, flags,
                                     static_cast<std::uint16_t>(i + 1));
    }
    for (std::uint64_t header = 0; header < 4096; header += 16) {
      memory.store(BlkDriver::kHeaders + header, static_cast<std::uint32_t>(pick(16)));
      memory.store(BlkDriver::kHeaders + header + 8, pick(3) == 0 ? value() : pick(kImageSectors));
    }
    // Some requests that are nearly right, so that the I/O paths are reached too.
    for (std::uint16_t i = 0; i < 240; i = static_cast<std::uint16_t>(i + 4)) {
      if (pick(2) == 0) continue;
      const auto type = static_cast<std::uint32_t>(pick(14));
      driver_.prepare(i, type, pick(3) == 0 ? value() : pick(kImageSectors),
                      {{address() & ~15ULL, static_cast<std::uint32_t>(512 * pick(64)),
                        pick(4) != 0 ? type == kBlkIn : pick(2) == 0}});
    }
    for (std::uint64_t i = 0; i < 256; ++i) {
      const auto head = static_cast<std::uint16_t>(pick(30) == 0 ? random_() : 4 * pick(60));
      memory.store(driver_.ring.available() + 4 + 2 * i, head);
    }
  }

  void expect_it_serves_an_honest_driver() {
    machine_.device.write_config(0x10, 4, static_cast<std::uint32_t>(kBar));
    machine_.device.write_config(4, 2, 2);
    machine_.registers.set_status(0);
    driver_.fill(BlkDriver::kRing, 1 << 20, 0);
    driver_.ring.set_available_index(0);
    ASSERT_EQ(driver_.bring_up(), 15);
    driver_.fill(8 << 20, 4096, 'h');
    EXPECT_EQ(driver_.request(kBlkOut, 0, {{8 << 20, 4096}}), kBlkOk);
    EXPECT_EQ(driver_.request(kBlkIn, 0, {{9 << 20, 4096, true}}), kBlkOk);
    EXPECT_EQ(driver_.bytes(9 << 20, 4096), std::vector<char>(4096, 'h'));
    machine_.registers.set_status(0);
  }

  std::mt19937_64 random_{GetParam()};
  ScratchFile file_{kImageSize};
  BlkMachine machine_{file_.path, false,
                      GetParam() % 4 == 3 ? IoEngine::Kind::kSynchronous : IoEngine::Kind::kBest};
  BlkDriver driver_{machine_};
};

INSTANTIATE_TEST_SUITE_P(Seeds, HostileDriverTest, testing::Range(0U, 8U));

TEST_P(HostileDriverTest, RandomRegisterAccessesDoNoHarm) {
  for (int step = 0; step < 20000; ++step) register_step();
  expect_it_serves_an_honest_driver();
}

TEST_P(HostileDriverTest, RandomRingsDoNoHarm) {
  for (int round = 0; round < 60; ++round) {
    machine_.registers.set_status(0);
    driver_.fill(BlkDriver::kRing, 64 << 10, 0);
    scramble();
    ASSERT_EQ(driver_.bring_up(), 15);
    // The rings are still while the device reads them, because a race here would be the test's own.
    driver_.ring.set_available_index(
        static_cast<std::uint16_t>(pick(10) == 0 ? random_() : 1 + pick(100)));
    driver_.kick();
    eventually([&] {
      return (machine_.registers.status() & 0x40) != 0 ||
             driver_.ring.used_index() == driver_.ring.next_available() || pick(200) == 0;
    });
    if (pick(2) == 0) {
      machine_.device.quiesce();
      machine_.device.resume();
    }
  }
  expect_it_serves_an_honest_driver();
}

TEST_P(HostileDriverTest, RegistersPulledFromUnderRunningRequestsDoNoHarm) {
  for (int round = 0; round < 40; ++round) {
    machine_.device.write_config(0x10, 4, static_cast<std::uint32_t>(kBar));
    machine_.device.write_config(4, 2, 2);
    machine_.registers.set_status(0);
    driver_.fill(BlkDriver::kRing, 64 << 10, 0);
    scramble();
    driver_.bring_up();
    driver_.ring.set_available_index(static_cast<std::uint16_t>(1 + pick(256)));
    driver_.kick();
    for (int step = 0; step < 200; ++step) register_step();
    if (pick(4) == 0) {
      machine_.device.quiesce();
      const auto state = save_of(machine_.device);
      restore_from(machine_.device, state);
      machine_.device.resume();
    }
  }
  expect_it_serves_an_honest_driver();
}

#if !defined(__SANITIZE_THREAD__)
// A driver that rewrites what it offered while the device reads it: a data race by intent, so not
// under the thread sanitizer.
TEST_P(HostileDriverTest, RingsThatChangeWhileTheyAreReadDoNoHarm) {
  for (int round = 0; round < 30; ++round) {
    machine_.registers.set_status(0);
    driver_.fill(BlkDriver::kRing, 64 << 10, 0);
    ASSERT_EQ(driver_.bring_up(), 15);
    driver_.ring.set_available_index(static_cast<std::uint16_t>(1 + pick(200)));
    driver_.kick();
    scramble();
    driver_.kick();
  }
  expect_it_serves_an_honest_driver();
}
#endif

}  // namespace
}  // namespace godwit::devices
