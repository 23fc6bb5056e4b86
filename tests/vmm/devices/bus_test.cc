#include "vmm/devices/bus.h"

#include <gtest/gtest.h>

#include <stdexcept>

#include "tests/vmm/devices/fakes.h"

namespace godwit::devices {
namespace {

class Recorder final : public Device {
 public:
  std::string_view kind() const override { return "recorder"; }
  void read(std::uint64_t offset, std::span<std::byte> data) override {
    last_offset = offset;
    store_le(data, 0x1122334455667788);
  }
  void write(std::uint64_t offset, std::span<const std::byte> data) override {
    last_offset = offset;
    written = load_le(data);
  }
  void save(vmm::StateWriter&, std::uint32_t) const override {}
  void restore(vmm::StateReader&, std::uint32_t) override {}
  std::uint64_t last_offset = UINT64_MAX;
  std::uint64_t written = 0;
};

std::uint32_t read32(const Bus& bus, std::uint64_t address) {
  std::uint32_t value = 0;
  bus.read(address, std::as_writable_bytes(std::span(&value, 1)));
  return value;
}

TEST(Bus, PassesTheOffsetInsideTheRange) {
  Bus bus;
  Recorder a, b;
  bus.attach(0x1000, 0x10, a);
  bus.attach(0x1010, 0x10, b);
  EXPECT_EQ(read32(bus, 0x100c), 0x55667788u);
  EXPECT_EQ(a.last_offset, 0xcu);
  const std::uint16_t value = 0xbeef;
  bus.write(0x1010, std::as_bytes(std::span(&value, 1)));
  EXPECT_EQ(b.last_offset, 0u);
  EXPECT_EQ(b.written, 0xbeefu);
}

TEST(Bus, UnclaimedAndStraddlingAccessesReachNobody) {
  Bus bus;
  Recorder a, b;
  bus.attach(0x1000, 0x10, a);
  bus.attach(0x1010, 0x10, b);
  for (const std::uint64_t address : {0xfffull, 0x100eull, 0x101eull, 0x1020ull, 0ull, ~0ull}) {
    EXPECT_EQ(read32(bus, address), ~0u) << address;
    const std::uint32_t value = 7;
    bus.write(address, std::as_bytes(std::span(&value, 1)));
  }
  EXPECT_EQ(a.written, 0u);
  EXPECT_EQ(b.written, 0u);
  EXPECT_EQ(a.last_offset, UINT64_MAX);
  EXPECT_EQ(b.last_offset, UINT64_MAX);
}

TEST(Bus, RefusesEmptyWrappingAndOverlappingRanges) {
  Bus bus;
  Recorder device;
  bus.attach(0x1000, 0x10, device);
  EXPECT_THROW(bus.attach(0x2000, 0, device), std::invalid_argument);
  EXPECT_THROW(bus.attach(UINT64_MAX, 2, device), std::invalid_argument);
  EXPECT_THROW(bus.attach(0x1000, 0x10, device), std::invalid_argument);
  EXPECT_THROW(bus.attach(0xfff, 2, device), std::invalid_argument);
  EXPECT_THROW(bus.attach(0x100f, 1, device), std::invalid_argument);
  EXPECT_THROW(bus.attach(0, 0x2000, device), std::invalid_argument);
  EXPECT_NO_THROW(bus.attach(0xfff, 1, device));
  EXPECT_NO_THROW(bus.attach(0x1010, 1, device));
  EXPECT_NO_THROW(bus.attach(UINT64_MAX, 1, device));
}

}  // namespace
}  // namespace godwit::devices
