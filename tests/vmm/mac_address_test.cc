#include "vmm/mac_address.h"

#include <gtest/gtest.h>

#include <set>

namespace godwit::vmm {
namespace {

TEST(MacAddress, IsReadByteByByte) {
  EXPECT_EQ(parse_mac("02:00:5e:10:Fe:ff"), (MacAddress{0x02, 0, 0x5e, 0x10, 0xfe, 0xff}));
}

TEST(MacAddress, WhatNoStationHasIsRefused) {
  for (const char* text : {"", "02:00:00:00:00", "02:00:00:00:00:0", "02:00:00:00:00:00:00",
                           "02-00-00-00-00-00", "0g:00:00:00:00:00", "02:00:00:00:00:-1",
                           "01:00:00:00:00:00", "ff:ff:ff:ff:ff:ff", "00:00:00:00:00:00"}) {
    EXPECT_EQ(parse_mac(text), std::nullopt) << text;
  }
}

TEST(MacAddress, DerivedItIsStableLocalAndAnotherForEachCard) {
  EXPECT_EQ(derived_mac("web1", 0), derived_mac("web1", 0));
  std::set<std::string> seen;
  for (int guest = 0; guest < 200; ++guest) {
    for (unsigned card = 0; card < 4; ++card) {
      const std::string text = derived_mac("web" + std::to_string(guest), card);
      const auto mac = parse_mac(text);
      ASSERT_TRUE(mac) << text;
      EXPECT_EQ((*mac)[0] & 3, 2) << text;
      EXPECT_TRUE(seen.insert(text).second) << text;
    }
  }
}

}  // namespace
}  // namespace godwit::vmm
