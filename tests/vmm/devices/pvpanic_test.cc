#include "vmm/devices/pvpanic.h"

#include <gtest/gtest.h>

#include "tests/vmm/devices/fakes.h"

namespace godwit::devices {
namespace {

TEST(Pvpanic, OffersOneEventAndHeedsNoOther) {
  Pvpanic pvpanic;
  EXPECT_EQ(read_as<std::uint8_t>(pvpanic, 0), Pvpanic::kPanicked);
  EXPECT_EQ(read_as<std::uint32_t>(pvpanic, 0), UINT32_MAX);
  write_as<std::uint8_t>(pvpanic, 0, 0xfe);  // a crash kernel was loaded, and more
  write_as<std::uint32_t>(pvpanic, 0, 1);
  write_as<std::uint8_t>(pvpanic, 1, 1);
  EXPECT_FALSE(pvpanic.panicked());
  write_as<std::uint8_t>(pvpanic, 0, Pvpanic::kPanicked);
  EXPECT_TRUE(pvpanic.panicked());
}

}  // namespace
}  // namespace godwit::devices
