#include "node/daemon/capabilities.h"

#include <gtest/gtest.h>

namespace godwit::node {
namespace {

std::vector<std::string> words(unsigned first, unsigned end) {
  std::vector<std::string> list;
  for (unsigned i = first; i < end; ++i) list.push_back("w" + std::to_string(i));
  return list;
}

TEST(Capabilities, AWordOfOthersHasNoBitUntilItIsOneOfOurs) {
  Capabilities known;
  EXPECT_TRUE(known.add({"gpu", "ssd"}));
  EXPECT_EQ(known.bits({"tpu"}), 0u);
  EXPECT_FALSE(known.knows({"gpu", "tpu"}));
  EXPECT_TRUE(known.knows({"gpu"}));
  EXPECT_TRUE(known.add({"tpu", "gpu"}));
  EXPECT_EQ(known.bits({"tpu"}) & known.bits({"gpu", "ssd"}), 0u);
  EXPECT_NE(known.bits({"tpu"}), 0u);
}

TEST(Capabilities, BindsEveryWordOrRefusesThem) {
  Capabilities known;
  EXPECT_TRUE(known.add(words(0, 63)));
  EXPECT_FALSE(known.add(words(62, 65)));
  EXPECT_FALSE(known.knows({"w63"})) << "a part of what was refused";
  EXPECT_TRUE(known.add(words(63, 64)));
  EXPECT_EQ(known.bits(words(0, 64)), ~std::uint64_t{0});
  EXPECT_TRUE(known.add({"w3"}));
}

}  // namespace
}  // namespace godwit::node
