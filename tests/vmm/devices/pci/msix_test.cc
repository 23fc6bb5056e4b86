#include "vmm/devices/pci/msix.h"

#include <gtest/gtest.h>

#include "tests/vmm/devices/fakes.h"

namespace godwit::devices {
namespace {

class MsixTest : public testing::Test {
 protected:
  void write(std::uint64_t offset, std::uint32_t value) {
    msix_.write_table(offset, std::as_bytes(std::span(&value, 1)));
  }
  std::uint32_t read(std::uint64_t offset) {
    std::uint32_t value = 0;
    msix_.read_table(offset, std::as_writable_bytes(std::span(&value, 1)));
    return value;
  }
  std::uint64_t pending() {
    std::uint64_t value = 0;
    msix_.read_pending(0, std::as_writable_bytes(std::span(&value, 1)));
    return value;
  }
  void program(unsigned vector, std::uint32_t data) {
    write(vector * 16 + 0, 0xfee00000);
    write(vector * 16 + 4, 0);
    write(vector * 16 + 8, data);
    write(vector * 16 + 12, 0);
  }

  FakeVectors vectors_;
  Msix msix_{3, vectors_};
};

TEST_F(MsixTest, RoutesUnmaskedVectorsAndFires) {
  msix_.set_control(Msix::kControlEnable);
  program(1, 0x41);
  ASSERT_EQ(vectors_.records[1]->routes.size(), 1u);
  EXPECT_EQ(vectors_.records[1]->routes[0], (MsiMessage{0xfee00000, 0x41}));
  msix_.trigger(1);
  EXPECT_EQ(vectors_.fired(1), 1);
  EXPECT_EQ(vectors_.fired(0), 0);
  EXPECT_TRUE(vectors_.records[0]->routes.empty());
}

TEST_F(MsixTest, AMaskedVectorWaitsInItsPendingBit) {
  msix_.set_control(Msix::kControlEnable);
  program(2, 0x42);
  write(2 * 16 + 12, 1);
  msix_.trigger(2);
  msix_.trigger(2);
  EXPECT_EQ(vectors_.fired(2), 0);
  EXPECT_EQ(pending(), 4u);
  write(2 * 16 + 8, 0x43);
  write(2 * 16 + 12, 0);
  EXPECT_EQ(vectors_.fired(2), 1);
  EXPECT_EQ(pending(), 0u);
  EXPECT_EQ(vectors_.records[2]->routes.back().data, 0x43u);  // routed before it fired
}

TEST_F(MsixTest, TheFunctionMaskHoldsAllVectorsBack) {
  program(0, 0x40);
  msix_.set_control(Msix::kControlEnable | Msix::kControlMaskAll);
  EXPECT_TRUE(vectors_.records[0]->routes.empty());
  msix_.trigger(0);
  EXPECT_EQ(vectors_.fired(0), 0);
  msix_.set_control(Msix::kControlEnable);
  EXPECT_EQ(vectors_.fired(0), 1);
}

TEST_F(MsixTest, NothingFiresWhileItIsOff) {
  program(0, 0x40);
  msix_.trigger(0);
  msix_.set_control(Msix::kControlEnable);
  EXPECT_EQ(vectors_.fired(0), 0);
  msix_.trigger(3);
  msix_.trigger(~0U);
}

TEST_F(MsixTest, HasNoUseForOddAccesses) {
  std::uint16_t word = 0;
  msix_.write_table(0, std::as_bytes(std::span(&word, 1)));
  msix_.read_table(0, std::as_writable_bytes(std::span(&word, 1)));
  EXPECT_EQ(word, 0xffff);
  EXPECT_EQ(read(2), ~0U);
  EXPECT_EQ(read(3 * 16), ~0U);
  EXPECT_EQ(read(~std::uint64_t{3}), ~0U);
  write(3 * 16, 1);
  write(~std::uint64_t{3}, 1);
  std::uint64_t both = 0;
  msix_.read_table(8, std::as_writable_bytes(std::span(&both, 1)));
  EXPECT_EQ(both, std::uint64_t{1} << 32);  // data 0, masked
}

TEST_F(MsixTest, AVectorThatTheHostCannotRouteStaysPending) {
  msix_.set_control(Msix::kControlEnable);
  vectors_.out_of_routes = true;
  program(0, 0x40);
  msix_.trigger(0);
  EXPECT_EQ(vectors_.fired(0), 0);
  EXPECT_EQ(pending(), 1u);
  vectors_.out_of_routes = false;
  msix_.trigger(0);
  EXPECT_EQ(vectors_.fired(0), 1);
}

TEST_F(MsixTest, AMessageThatGoesNowhereDoesNoHarm) {
  msix_.set_control(Msix::kControlEnable);
  program(0, 0x40);
  vectors_.refuses_messages = true;
  msix_.trigger(0);
  EXPECT_EQ(pending(), 1u);
  vectors_.refuses_messages = false;
  msix_.trigger(0);
  EXPECT_EQ(vectors_.fired(0), 1);
}

TEST_F(MsixTest, RestoresRoutesWithoutFiring) {
  msix_.set_control(Msix::kControlEnable);
  program(0, 0x40);
  program(1, 0x41);
  write(1 * 16 + 12, 1);
  msix_.trigger(1);
  vmm::StateWriter writer;
  writer.begin("msix", 1, 0);
  msix_.save(writer);
  const auto state = writer.finish();

  FakeVectors vectors;
  Msix moved(3, vectors);
  moved.set_control(Msix::kControlEnable);
  vmm::StateReader reader(state);
  reader.begin("msix", 1, 0);
  moved.restore(reader);
  EXPECT_EQ(vectors.records[0]->routes.size(), 1u);
  EXPECT_TRUE(vectors.records[1]->routes.empty());
  EXPECT_EQ(vectors.fired(0) + vectors.fired(1), 0);
  moved.set_control(Msix::kControlEnable);
  const std::uint32_t unmask = 0;
  moved.write_table(16 + 12, std::as_bytes(std::span(&unmask, 1)));
  EXPECT_EQ(vectors.fired(1), 1);

  Msix other(4, vectors);
  vmm::StateReader again(state);
  again.begin("msix", 1, 0);
  EXPECT_THROW(other.restore(again), vmm::StateError);
}

}  // namespace
}  // namespace godwit::devices
