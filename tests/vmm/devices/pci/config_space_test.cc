#include "vmm/devices/pci/config_space.h"

#include <gtest/gtest.h>

#include <stdexcept>

namespace godwit::devices {
namespace {

constexpr PciIdentity kIdentity = {.vendor = 0x1af4,
                                   .device = 0x1042,
                                   .subsystem_vendor = 0x1af4,
                                   .subsystem = 0x0040,
                                   .class_code = 0x010000,
                                   .revision = 1};

TEST(ConfigSpace, ShowsItsIdentityAndKeepsIt) {
  ConfigSpace config(kIdentity);
  config.write(0, 4, 0);
  config.write(8, 4, 0);
  config.write(0x2c, 4, ~0U);
  EXPECT_EQ(config.read(0, 4), 0x10421af4u);
  EXPECT_EQ(config.read(8, 4), 0x01000001u);
  EXPECT_EQ(config.read(0x2c, 4), 0x00401af4u);
}

TEST(ConfigSpace, BarAnswersTheSizingProtocol) {
  ConfigSpace config(kIdentity);
  config.set_bar(0xc0010000, 0x8000);
  EXPECT_TRUE(config.decodes());
  config.write(0x10, 4, ~0U);
  EXPECT_EQ(config.read(0x10, 4), 0xffff8000u);
  EXPECT_FALSE(config.decodes());
  config.write(0x10, 4, 0xc0010000);
  EXPECT_TRUE(config.decodes());
  config.write(4, 2, 0);
  EXPECT_FALSE(config.decodes());
  for (unsigned bar = 0x14; bar < 0x28; bar += 4) {
    config.write(bar, 4, ~0U);
    EXPECT_EQ(config.read(bar, 4), 0u) << bar;
  }
}

TEST(ConfigSpace, RefusesAMisplacedBar) {
  ConfigSpace config(kIdentity);
  EXPECT_THROW(config.set_bar(0xc0010000, 0x8001), std::invalid_argument);
  EXPECT_THROW(config.set_bar(0xc0011000, 0x8000), std::invalid_argument);
  EXPECT_THROW(config.set_bar(0x100000000, 0x8000), std::invalid_argument);
}

TEST(ConfigSpace, ChainsCapabilities) {
  ConfigSpace config(kIdentity);
  EXPECT_EQ(config.read(6, 2) & 0x10, 0u);
  const std::uint8_t body[] = {1, 2, 3};
  const std::uint8_t writable[] = {0, 0xf0};
  const auto first = config.add_capability(9, body, writable);
  const auto second = config.add_capability(0x11, body);
  EXPECT_EQ(config.read(6, 2) & 0x10, 0x10u);
  EXPECT_EQ(config.read(0x34, 1), first);
  EXPECT_EQ(config.read(first, 2), 9u | unsigned{second} << 8);
  EXPECT_EQ(config.read(second, 2), 0x11u);
  config.write(first, 4, ~0U);
  EXPECT_EQ(config.read(first, 4), 0xf2010009u | unsigned{second} << 8);
}

TEST(ConfigSpace, HasNoRoomForever) {
  ConfigSpace config(kIdentity);
  const std::uint8_t body[100] = {};
  config.add_capability(9, body);
  EXPECT_THROW(config.add_capability(9, body), std::invalid_argument);
}

TEST(ConfigSpace, AccessesPastTheEndReadOnes) {
  ConfigSpace config(kIdentity);
  EXPECT_EQ(config.read(254, 4), ~0U);
  EXPECT_EQ(config.read(256, 1), ~0U);
  EXPECT_EQ(config.read(~0U, 4), ~0U);
  config.write(254, 4, 1);
  config.write(~0U, 4, 1);
}

TEST(ConfigSpace, RestoresOnlyTheSameFunction) {
  ConfigSpace config(kIdentity);
  config.set_bar(0xc0010000, 0x8000);
  config.write(4, 2, 0x0406);
  vmm::StateWriter writer;
  writer.begin("config", 1, 0);
  config.save(writer);
  const auto state = writer.finish();

  ConfigSpace same(kIdentity);
  same.set_bar(0xc0010000, 0x8000);
  vmm::StateReader reader(state);
  reader.begin("config", 1, 0);
  same.restore(reader);
  EXPECT_EQ(same.read(4, 2), 0x0406u);

  PciIdentity network = kIdentity;
  network.device = 0x1041;
  ConfigSpace foreign(network);
  vmm::StateReader again(state);
  again.begin("config", 1, 0);
  EXPECT_THROW(foreign.restore(again), vmm::StateError);
}

}  // namespace
}  // namespace godwit::devices
