#include "vmm/devices/pci/host_bridge.h"

#include <gtest/gtest.h>

#include <stdexcept>

#include "tests/vmm/devices/fakes.h"

namespace godwit::devices {
namespace {

class FakeFunction final : public PciFunction {
 public:
  std::uint32_t read_config(unsigned offset, unsigned size) override {
    EXPECT_LE(offset % 4 + size, 4u);
    return 0xa0b0c000 | offset;
  }
  void write_config(unsigned offset, unsigned size, std::uint32_t value) override {
    EXPECT_LE(offset % 4 + size, 4u);
    last_offset = offset;
    last_value = value;
  }
  unsigned last_offset = ~0U;
  std::uint32_t last_value = 0;
};

std::uint32_t address_of(unsigned bus, unsigned slot, unsigned function, unsigned offset) {
  return 0x80000000 | (bus << 16) | (slot << 11) | (function << 8) | offset;
}

TEST(PciHostBridge, PassesTheKernelsProbe) {
  PciHostBridge bridge;
  write_as<std::uint8_t>(bridge, 3, 1);  // outb(1, 0xcfb), the type-1 probe
  write_as<std::uint32_t>(bridge, 0, 0x80000000);
  EXPECT_EQ(read_as<std::uint32_t>(bridge, 0), 0x80000000u);
  write_as<std::uint32_t>(bridge, 0, address_of(0, 0, 0, 8));
  EXPECT_EQ(read_as<std::uint16_t>(bridge, 6), 0x0600);  // class: host bridge
}

TEST(PciHostBridge, ReachesAFunctionAtEveryWidth) {
  PciHostBridge bridge;
  FakeFunction function;
  bridge.plug(3, function);
  write_as<std::uint32_t>(bridge, 0, address_of(0, 3, 0, 0x10));
  EXPECT_EQ(read_as<std::uint32_t>(bridge, 4), 0xa0b0c010u);
  EXPECT_EQ(read_as<std::uint16_t>(bridge, 6), 0xc012);
  EXPECT_EQ(read_as<std::uint8_t>(bridge, 7), 0x13);
  write_as<std::uint16_t>(bridge, 6, 0x1234);
  EXPECT_EQ(function.last_offset, 0x12u);
  EXPECT_EQ(function.last_value, 0x1234u);
}

TEST(PciHostBridge, NobodyElseAnswers) {
  PciHostBridge bridge;
  FakeFunction function;
  bridge.plug(3, function);
  for (const std::uint32_t address :
       {address_of(0, 2, 0, 0), address_of(1, 3, 0, 0), address_of(0, 3, 1, 0),
        address_of(0, 3, 0, 0) & 0x7fffffff}) {
    write_as<std::uint32_t>(bridge, 0, address);
    EXPECT_EQ(read_as<std::uint32_t>(bridge, 4), ~0U) << address;
    write_as<std::uint32_t>(bridge, 4, 1);
  }
  write_as<std::uint32_t>(bridge, 0, address_of(0, 3, 0, 0));
  EXPECT_EQ(read_as<std::uint16_t>(bridge, 5), 0xffff);  // misaligned
  EXPECT_EQ(read_as<std::uint32_t>(bridge, 6), ~0U);     // past the port
  EXPECT_EQ(read_as<std::uint64_t>(bridge, 4), ~0ULL);
  EXPECT_EQ(read_as<std::uint64_t>(bridge, 0), ~0ULL);
  write_as<std::uint32_t>(bridge, 6, 1);
  EXPECT_EQ(function.last_offset, ~0U);
}

TEST(PciHostBridge, RefusesATakenSlot) {
  PciHostBridge bridge;
  FakeFunction function;
  EXPECT_THROW(bridge.plug(0, function), std::invalid_argument);
  EXPECT_THROW(bridge.plug(32, function), std::invalid_argument);
  bridge.plug(31, function);
  EXPECT_THROW(bridge.plug(31, function), std::invalid_argument);
}

}  // namespace
}  // namespace godwit::devices
