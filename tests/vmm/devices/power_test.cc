#include "vmm/devices/power.h"

#include <gtest/gtest.h>

#include "tests/vmm/devices/fakes.h"
#include "vmm/boot/layout.h"

namespace godwit::devices {
namespace {

class PowerTest : public testing::Test {
 protected:
  CountingLine line_;
  int offs_ = 0;
  int resets_ = 0;
  Power power_{line_, [this] { ++offs_; }, [this] { ++resets_; }};
};

TEST_F(PowerTest, OnlySleepStateFivePowersOff) {
  for (int value = 0; value < 256; ++value) {
    write_as(power_, 0, static_cast<std::uint8_t>(value));
    const bool off = (value & 0x3c) == boot::kPowerOffValue;
    EXPECT_EQ(std::exchange(offs_, 0), off ? 1 : 0) << value;
  }
  EXPECT_EQ(resets_, 0);
}

TEST_F(PowerTest, OnlyTheResetValueResets) {
  for (int value = 0; value < 256; ++value) write_as(power_, 2, static_cast<std::uint8_t>(value));
  EXPECT_EQ(resets_, 1);
  EXPECT_EQ(offs_, 0);
}

TEST_F(PowerTest, EventsAddUpUntilTheyAreRead) {
  power_.press_button();
  power_.announce(boot::kEventGeneration);
  EXPECT_EQ(line_.count, 2);
  EXPECT_EQ(read_as<std::uint8_t>(power_, 3), 3);
  EXPECT_EQ(read_as<std::uint8_t>(power_, 3), 0);
}

TEST_F(PowerTest, TheButtonRaisesAnEventThatReadingClears) {
  EXPECT_EQ(read_as<std::uint8_t>(power_, 3), 0);
  power_.press_button();
  EXPECT_EQ(line_.count, 1);
  EXPECT_EQ(read_as<std::uint8_t>(power_, 3), boot::kEventPowerButton);
  EXPECT_EQ(read_as<std::uint8_t>(power_, 3), 0);
}

TEST_F(PowerTest, APressBeforeAMoveIsAnnouncedAfterIt) {
  power_.quiesce();
  power_.press_button();
  EXPECT_EQ(line_.count, 0);
  CountingLine line;
  Power moved(
      line, [] {}, [] {});
  moved.quiesce();
  restore_from(moved, save_of(power_));
  EXPECT_EQ(line.count, 0);
  moved.resume();
  EXPECT_EQ(line.count, 1);
  EXPECT_EQ(read_as<std::uint8_t>(moved, 3), boot::kEventPowerButton);
}

TEST_F(PowerTest, OddAccessesDoNothing) {
  write_as<std::uint16_t>(power_, 0, boot::kPowerOffValue);
  write_as<std::uint8_t>(power_, 4, boot::kResetValue);
  EXPECT_EQ(read_as<std::uint16_t>(power_, 0), 0xffff);
  EXPECT_EQ(read_as<std::uint8_t>(power_, 4), 0xff);
  EXPECT_EQ(offs_ + resets_, 0);
}

TEST(KeyboardReset, ResetsAndLooksReady) {
  int resets = 0;
  KeyboardReset keyboard([&] { ++resets; });
  EXPECT_EQ(read_as<std::uint8_t>(keyboard, 0), 0);
  write_as<std::uint8_t>(keyboard, 0, 0xd1);
  EXPECT_EQ(resets, 0);
  write_as<std::uint8_t>(keyboard, 0, boot::kKeyboardResetValue);
  EXPECT_EQ(resets, 1);
}

}  // namespace
}  // namespace godwit::devices
