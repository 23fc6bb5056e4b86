#include "vmm/devices/virtio/pci_transport.h"

#include <gtest/gtest.h>

#include "tests/vmm/devices/virtio/driver.h"

namespace godwit::devices {
namespace {

constexpr std::uint64_t kBar = 0xc001'0000;

/// Counts what the transport asks of it, and serves nothing by itself.
class FakeBackend final : public VirtioBackend {
 public:
  std::string_view kind() const override { return "virtio-fake"; }
  std::uint16_t device_id() const override { return 4; }
  std::uint32_t pci_class() const override { return 0xff0000; }
  std::uint64_t features() const override { return offered; }
  std::span<const std::uint16_t> queue_sizes() const override { return sizes; }
  std::span<const std::byte> config() const override { return configuration; }
  void write_config(std::uint64_t offset, std::span<const std::byte> data) override {
    std::copy(data.begin(), data.end(), configuration.begin() + static_cast<long>(offset));
  }
  void start(VirtioHost& to, std::uint64_t accepted,
             std::span<const VirtioQueuePort> queues) override {
    host = &to;
    features_seen = accepted;
    ports.assign(queues.begin(), queues.end());
    running = true;
    ++starts;
  }
  void stop() override { running = false; }
  void reset() override { ++resets; }

  std::uint64_t offered = 0x5;
  std::array<std::uint16_t, 2> sizes = {16, 8};
  std::array<std::byte, 6> configuration{};
  VirtioHost* host = nullptr;
  std::uint64_t features_seen = 0;
  std::vector<VirtioQueuePort> ports;
  bool running = false;
  int starts = 0, resets = 0;
};

class VirtioPciTest : public testing::Test {
 protected:
  std::uint8_t bring_up() {
    registers_.enable_msix(3);
    return devices::bring_up(registers_, ring_, registers_.features());
  }
  memory::GuestMemory memory_{1 << 20};
  FakeVectors vectors_;
  FakeDoorbells doorbells_;
  FakeBackend backend_;
  VirtioPci device_{backend_, memory_, vectors_, doorbells_, kBar};
  Registers registers_{device_};
  DriverRing ring_{memory_, 0x1000, 16};
};

TEST_F(VirtioPciTest, IsFoundAsAModernDevice) {
  EXPECT_EQ(device_.read_config(0, 4), 0x10441af4u);
  EXPECT_EQ(device_.read_config(8, 1), 1u);
  EXPECT_EQ(registers_.get<std::uint16_t>(18), 2);
  EXPECT_EQ(vectors_.records.size(), 3u);
  EXPECT_NE(registers_.notify, 0u);
  EXPECT_NE(registers_.config, 0u);
  EXPECT_NE(registers_.window, 0u);
  EXPECT_EQ(device_.read_config(registers_.msix + 2, 2), 2u);  // table size less one
}

TEST_F(VirtioPciTest, NegotiatesAndStarts) {
  EXPECT_EQ(bring_up(), 15);
  EXPECT_TRUE(backend_.running);
  EXPECT_EQ(backend_.features_seen, 0x5 | kFeatureVersion1 | kFeatureIndirect | kFeatureEventIndex);
  ASSERT_EQ(backend_.ports.size(), 2u);
  EXPECT_TRUE(backend_.ports[0].queue->enabled());
  EXPECT_FALSE(backend_.ports[1].queue->enabled());
}

TEST_F(VirtioPciTest, RefusesFeaturesItDoesNotHave) {
  for (const std::uint64_t features : {0x5ULL, kFeatureVersion1 | 0x2ULL, ~0ULL}) {
    EXPECT_EQ(devices::bring_up(registers_, ring_, features) & 0x0c, 0) << features;
    EXPECT_FALSE(backend_.running);
  }
}

TEST_F(VirtioPciTest, FeaturesAreSettledWithFeaturesOk) {
  bring_up();
  registers_.accept(0);
  registers_.set<std::uint32_t>(8, 1);
  EXPECT_EQ(registers_.get<std::uint32_t>(12), 1u);
}

TEST_F(VirtioPciTest, AQueueInUseCannotBeMoved) {
  bring_up();
  registers_.set<std::uint64_t>(32, 0x9000);
  registers_.set<std::uint16_t>(24, 4);
  registers_.set<std::uint16_t>(28, 0);
  EXPECT_EQ(registers_.get<std::uint64_t>(32), ring_.descriptors());
  EXPECT_EQ(registers_.get<std::uint16_t>(24), 16);
  EXPECT_EQ(registers_.get<std::uint16_t>(28), 1);
  registers_.set<std::uint16_t>(22, 1);
  registers_.set<std::uint16_t>(28, 1);  // after DRIVER_OK: too late
  EXPECT_EQ(registers_.get<std::uint16_t>(28), 0);
}

TEST_F(VirtioPciTest, QueueRegistersTakeOnlyWhatMakesSense) {
  registers_.set<std::uint16_t>(22, 0);
  for (const unsigned value : {0U, 3U, 32U, 0x8000U, 0xffffU}) {
    const auto bad = static_cast<std::uint16_t>(value);
    registers_.set<std::uint16_t>(24, bad);
    EXPECT_EQ(registers_.get<std::uint16_t>(24), 16) << bad;
  }
  registers_.set<std::uint16_t>(26, 3);
  EXPECT_EQ(registers_.get<std::uint16_t>(26), 0xffff);
  registers_.set<std::uint16_t>(26, 2);
  EXPECT_EQ(registers_.get<std::uint16_t>(26), 2);
  for (const unsigned value : {2U, 99U, 0xffffU}) {
    const auto none = static_cast<std::uint16_t>(value);
    registers_.set<std::uint16_t>(22, none);
    EXPECT_EQ(registers_.get<std::uint16_t>(24), 0);
    registers_.set<std::uint16_t>(24, 8);
    registers_.set<std::uint16_t>(26, 0);
    registers_.set<std::uint64_t>(32, 8);
  }
}

TEST_F(VirtioPciTest, AMisplacedRingAsksForAReset) {
  registers_.enable_msix(3);
  const DriverRing outside(memory_, 1 << 20, 16);
  EXPECT_EQ(devices::bring_up(registers_, outside, registers_.features()), 15 | 0x40);
  EXPECT_FALSE(backend_.running);
  EXPECT_EQ(vectors_.fired(1), 1);  // configuration interrupt
  registers_.set_status(0);
  EXPECT_EQ(bring_up(), 15);
  EXPECT_TRUE(backend_.running);
}

TEST_F(VirtioPciTest, ResetForgetsEverything) {
  bring_up();
  registers_.set_status(0);
  EXPECT_FALSE(backend_.running);
  EXPECT_EQ(backend_.resets, 2);  // bring_up's, and this
  EXPECT_EQ(registers_.status(), 0);
  registers_.set<std::uint16_t>(22, 0);
  EXPECT_EQ(registers_.get<std::uint16_t>(28), 0);
  EXPECT_EQ(registers_.get<std::uint64_t>(32), 0u);
  EXPECT_EQ(registers_.get<std::uint16_t>(26), 0xffff);
  EXPECT_EQ(registers_.get<std::uint16_t>(16), 0xffff);
}

TEST_F(VirtioPciTest, InterruptsGoToTheirVectors) {
  bring_up();
  backend_.host->interrupt_queue(0);
  EXPECT_EQ(vectors_.fired(0), 1);
  backend_.host->interrupt_queue(1);  // no vector
  backend_.host->interrupt_queue(7);
  const auto generation = registers_.get<std::uint8_t>(21);
  backend_.host->config_changed();
  EXPECT_EQ(vectors_.fired(1), 1);
  EXPECT_NE(registers_.get<std::uint8_t>(21), generation);
  EXPECT_EQ(read_as<std::uint8_t>(device_, registers_.isr), 3);
  EXPECT_EQ(read_as<std::uint8_t>(device_, registers_.isr), 0);
  EXPECT_EQ(vectors_.fired(0), 1);
}

TEST_F(VirtioPciTest, NeedsResetIsToldOnce) {
  bring_up();
  backend_.host->needs_reset();
  backend_.host->needs_reset();
  EXPECT_EQ(vectors_.fired(1), 1);
  EXPECT_EQ(registers_.status(), 15 | 0x40);
  device_.quiesce();
  device_.resume();
  EXPECT_FALSE(backend_.running);
}

TEST_F(VirtioPciTest, DoorbellsAreRegisteredAndWork) {
  ASSERT_EQ(doorbells_.registered.size(), 2u);
  bring_up();
  EXPECT_EQ(doorbells_.registered.at(kBar + registers_.notify), backend_.ports[0].doorbell->fd());
  EXPECT_EQ(doorbells_.registered.at(kBar + registers_.notify + registers_.multiplier),
            backend_.ports[1].doorbell->fd());
  write_as<std::uint16_t>(device_, registers_.notify + registers_.multiplier, 1);
  EXPECT_FALSE(backend_.ports[0].doorbell->drain());
  EXPECT_TRUE(backend_.ports[1].doorbell->drain());
  write_as<std::uint16_t>(device_, registers_.notify + 2 * registers_.multiplier, 2);
}

TEST_F(VirtioPciTest, UnregistersItsDoorbells) {
  {
    VirtioPci other(backend_, memory_, vectors_, doorbells_, kBar + VirtioPci::kBarSize);
    EXPECT_EQ(doorbells_.registered.size(), 4u);
  }
  EXPECT_EQ(doorbells_.registered.size(), 2u);
  EXPECT_EQ(doorbells_.wrong_removals, 0);
}

TEST_F(VirtioPciTest, AnswersOnlyWhereItsBarIs) {
  device_.write_config(0x10, 4, ~0U);
  EXPECT_EQ(device_.read_config(0x10, 4), ~(static_cast<std::uint32_t>(VirtioPci::kBarSize) - 1));
  EXPECT_EQ(registers_.get<std::uint16_t>(18), 0xffff);
  registers_.set_status(1);
  device_.write_config(0x10, 4, static_cast<std::uint32_t>(kBar));
  EXPECT_EQ(registers_.get<std::uint16_t>(18), 2);
  EXPECT_EQ(registers_.status(), 0);
  device_.write_config(4, 2, 0);
  EXPECT_EQ(registers_.get<std::uint16_t>(18), 0xffff);
}

TEST_F(VirtioPciTest, TheConfigurationWindowReachesTheBar) {
  const auto window = registers_.window;
  device_.write_config(window + 4, 1, 0);
  device_.write_config(window + 8, 4, registers_.common + 20);
  device_.write_config(window + 12, 4, 1);
  device_.write_config(window + 16, 1, 1);
  EXPECT_EQ(registers_.status(), 1);
  device_.write_config(window + 8, 4, registers_.common + 18);
  device_.write_config(window + 12, 4, 2);
  EXPECT_EQ(device_.read_config(window + 16, 2), 2u);
  for (const std::uint32_t length : {0U, 3U, 8U, ~0U}) {
    device_.write_config(window + 12, 4, length);
    device_.write_config(window + 16, 4, 0);
    device_.read_config(window + 16, 4);
  }
  device_.write_config(window + 12, 4, 4);
  for (const std::uint32_t offset : {0x8000U, ~0U, 0xfffffffcU, 2U}) {
    device_.write_config(window + 8, 4, offset);
    device_.write_config(window + 16, 4, 0);
    device_.read_config(window + 16, 4);
  }
  EXPECT_EQ(registers_.status(), 1);
}

TEST_F(VirtioPciTest, DeviceConfigurationIsBounded) {
  write_as<std::uint32_t>(device_, registers_.config, 0x44332211);
  EXPECT_EQ(read_as<std::uint32_t>(device_, registers_.config), 0x44332211u);
  write_as<std::uint32_t>(device_, registers_.config + 4, ~0U);  // two bytes too many
  EXPECT_EQ(read_as<std::uint32_t>(device_, registers_.config + 4), 0u);
  EXPECT_EQ(read_as<std::uint32_t>(device_, registers_.config + 8), ~0U);
}

TEST_F(VirtioPciTest, QuiesceStopsAndResumeStartsAgain) {
  bring_up();
  device_.quiesce();
  device_.quiesce();
  EXPECT_FALSE(backend_.running);
  device_.resume();
  EXPECT_TRUE(backend_.running);
  device_.resume();
  EXPECT_EQ(backend_.starts, 2);
  EXPECT_EQ(vectors_.fired(0), 0);  // nothing was restored: no interrupt of ours
}

TEST_F(VirtioPciTest, ARestoredDeviceStartsAndInterruptsOnResume) {
  bring_up();
  device_.quiesce();
  const auto state = save_of(device_);

  FakeVectors vectors;
  FakeDoorbells doorbells;
  FakeBackend backend;
  VirtioPci moved(backend, memory_, vectors, doorbells, kBar);
  moved.quiesce();
  restore_from(moved, state);
  EXPECT_FALSE(backend.running);
  EXPECT_EQ(vectors.fired(0), 0);
  moved.resume();
  EXPECT_TRUE(backend.running);
  EXPECT_EQ(vectors.fired(0), 1);  // one may have been on its way
  EXPECT_EQ(vectors.records[0]->routes.back().data, 0x40u);
  EXPECT_EQ(backend.ports[0].queue->state().descriptors, ring_.descriptors());
}

TEST_F(VirtioPciTest, RefusesAGuestThatUsesMoreThanItHas) {
  bring_up();
  device_.quiesce();
  const auto state = save_of(device_);
  FakeBackend poorer;
  poorer.offered = 0x1;
  FakeVectors vectors;
  FakeDoorbells doorbells;
  VirtioPci moved(poorer, memory_, vectors, doorbells, kBar);
  EXPECT_THROW(restore_from(moved, state), vmm::StateError);
  VirtioPci elsewhere(backend_, memory_, vectors, doorbells, kBar + VirtioPci::kBarSize);
  EXPECT_THROW(restore_from(elsewhere, state), vmm::StateError);
}

}  // namespace
}  // namespace godwit::devices
