// One suite over every device: what is saved, changed and restored into a fresh one of the same
// shape is the same again; what is truncated, foreign or corrupt is refused with StateError, and
// random bytes do no harm. A new device adds itself to kRigs.
#include <gtest/gtest.h>

#include <memory>
#include <random>

#include "tests/vmm/devices/virtio/blk_fixture.h"
#include "tests/vmm/devices/virtio/net_fixture.h"
#include "tests/vmm/devices/virtio/plain_driver.h"
#include "vmm/devices/pci/host_bridge.h"
#include "vmm/devices/power.h"
#include "vmm/devices/pvpanic.h"
#include "vmm/devices/serial.h"
#include "vmm/devices/virtio/balloon.h"
#include "vmm/devices/virtio/console.h"
#include "vmm/devices/virtio/rng.h"
#include "vmm/devices/virtio/vsock.h"

namespace godwit::devices {
namespace {

/// A device with its wiring, and something a guest would do to it that changes its state.
class Rig {
 public:
  virtual ~Rig() = default;
  virtual Device& device() = 0;
  virtual void use() = 0;
};

class SerialRig final : public Rig {
 public:
  Device& device() override { return serial_; }
  void use() override {
    write_as<std::uint8_t>(serial_, 2, 0x41);
    write_as<std::uint8_t>(serial_, 1, 0x0f);
    write_as<std::uint8_t>(serial_, 7, 0x5a);
    const std::vector<std::byte> typed(40, std::byte{'t'});
    serial_.input(typed);
  }

 private:
  CountingLine line_;
  Serial serial_{line_, nullptr};
};

class PowerRig final : public Rig {
 public:
  Device& device() override { return power_; }
  void use() override { power_.press_button(); }

 private:
  CountingLine line_;
  Power power_{line_, [] {}, [] {}};
};

class KeyboardRig final : public Rig {
 public:
  Device& device() override { return keyboard_; }
  void use() override {}

 private:
  KeyboardReset keyboard_{[] {}};
};

class PvpanicRig final : public Rig {
 public:
  Device& device() override { return pvpanic_; }
  void use() override { write_as<std::uint8_t>(pvpanic_, 0, 1); }

 private:
  Pvpanic pvpanic_;
};

class HostBridgeRig final : public Rig {
 public:
  Device& device() override { return bridge_; }
  void use() override {
    write_as<std::uint32_t>(bridge_, 0, 0x80000004);
    write_as<std::uint16_t>(bridge_, 4, 0x0107);
  }

 private:
  PciHostBridge bridge_;
};

class BlkRig final : public Rig {
 public:
  Device& device() override { return machine_.device; }
  void use() override {
    ASSERT_EQ(driver_.bring_up(), 15);
    ASSERT_EQ(driver_.request(kBlkGetId, 0, {{4 << 20, 20, true}}), kBlkOk);
    write_as<std::uint32_t>(machine_.device, machine_.registers.table + 12, 1);  // mask vector 0
    ASSERT_EQ(driver_.request(kBlkGetId, 0, {{4 << 20, 20, true}}), kBlkOk);  // leaves it pending
  }

 private:
  ScratchFile file_{kImageSize};
  BlkMachine machine_{file_.path};
  BlkDriver driver_{machine_};
};

class NetRig final : public Rig {
 public:
  Device& device() override { return machine_.device; }
  void use() override {
    ASSERT_EQ(driver_.bring_up(), 15);
    driver_.send(arp_of({kMac, {10, 0, 0, 7}}));
    driver_.give_buffers(4, 2048);
    ASSERT_EQ(driver_.command(3, 0), 0);
  }

 private:
  NetMachine machine_;
  NetDriver driver_{machine_};
};

class RngRig final : public Rig {
 public:
  Device& device() override { return device_; }
  void use() override {
    ASSERT_EQ(driver_.bring_up(), 15);
    ASSERT_EQ(driver_.ask(0, {{4 << 20, 16, true}}), 16u);
  }

 private:
  PlainWiring wiring_;
  VirtioRng rng_;
  VirtioPci device_{rng_, wiring_.memory, wiring_.vectors, wiring_.doorbells, PlainWiring::kBar};
  PlainDriver driver_{device_, wiring_.memory, rng_.queue_sizes()};
};

class BalloonRig final : public Rig {
 public:
  Device& device() override { return device_; }
  void use() override {
    ASSERT_EQ(driver_.bring_up(), 15);
    const memory::GuestMemory::Hold hold(wiring_.memory);
    balloon_.set_target(100);
    write_as<std::uint32_t>(device_, driver_.registers.config + 4, 2);
    wiring_.memory.store(4 << 20, std::uint64_t{0x500'0000'0600});  // frames 0x600, 0x500
    ASSERT_TRUE(driver_.ask(0, {{4 << 20, 8}}));
    driver_.offer(2, {{4 << 20, 10}});
    device_.quiesce();  // what it holds back is part of its state
  }

 private:
  PlainWiring wiring_;
  VirtioBalloon balloon_{wiring_.memory};
  VirtioPci device_{balloon_, wiring_.memory, wiring_.vectors, wiring_.doorbells,
                    PlainWiring::kBar};
  PlainDriver driver_{device_, wiring_.memory, balloon_.queue_sizes()};
};

class VsockRig final : public Rig {
 public:
  Device& device() override { return device_; }
  void use() override {
    ASSERT_EQ(driver_.bring_up(), 15);
    driver_.store(4 << 20, std::vector<std::byte>(44));
    ASSERT_TRUE(driver_.ask(1, {{4 << 20, 44}}));
  }

 private:
  static std::string path() {
    static std::atomic<int> count = 0;
    return testing::TempDir() + "godwit-" + std::to_string(::getpid()) + "-" +
           std::to_string(count++);
  }
  PlainWiring wiring_;
  VirtioVsock vsock_{42, path()};
  VirtioPci device_{vsock_, wiring_.memory, wiring_.vectors, wiring_.doorbells, PlainWiring::kBar};
  PlainDriver driver_{device_, wiring_.memory, vsock_.queue_sizes()};
};

class ConsoleRig final : public Rig {
 public:
  Device& device() override { return device_; }
  void use() override {
    ASSERT_EQ(driver_.bring_up(), 15);
    ASSERT_TRUE(driver_.ask(1, {{4 << 20, 16}}));
    ASSERT_EQ(console_.input(std::vector<std::byte>(40, std::byte{'t'})), 40u);
  }

 private:
  PlainWiring wiring_;
  VirtioConsole console_{nullptr};
  VirtioPci device_{console_, wiring_.memory, wiring_.vectors, wiring_.doorbells,
                    PlainWiring::kBar};
  PlainDriver driver_{device_, wiring_.memory, console_.queue_sizes()};
};

struct Kind {
  const char* name;
  std::unique_ptr<Rig> (*make)();
  bool has_state = true;
};

const Kind kRigs[] = {
    {"Serial", [] { return std::unique_ptr<Rig>(new SerialRig); }},
    {"Power", [] { return std::unique_ptr<Rig>(new PowerRig); }},
    {"KeyboardReset", [] { return std::unique_ptr<Rig>(new KeyboardRig); }, false},
    {"Pvpanic", [] { return std::unique_ptr<Rig>(new PvpanicRig); }},
    {"PciHostBridge", [] { return std::unique_ptr<Rig>(new HostBridgeRig); }},
    {"VirtioBlk", [] { return std::unique_ptr<Rig>(new BlkRig); }},
    {"VirtioNet", [] { return std::unique_ptr<Rig>(new NetRig); }},
    {"VirtioRng", [] { return std::unique_ptr<Rig>(new RngRig); }},
    {"VirtioBalloon", [] { return std::unique_ptr<Rig>(new BalloonRig); }},
    {"VirtioVsock", [] { return std::unique_ptr<Rig>(new VsockRig); }},
    {"VirtioConsole", [] { return std::unique_ptr<Rig>(new ConsoleRig); }},
};

class DeviceStateTest : public testing::TestWithParam<Kind> {
 protected:
  static std::unique_ptr<Rig> make() {
    auto rig = GetParam().make();
    return rig;
  }
  static std::vector<std::byte> used_state() {
    auto rig = make();
    rig->use();
    rig->device().quiesce();
    return save_of(rig->device(), 3);
  }
};

INSTANTIATE_TEST_SUITE_P(Devices, DeviceStateTest, testing::ValuesIn(kRigs),
                         [](const auto& param) { return std::string(param.param.name); });

TEST_P(DeviceStateTest, RestoredIntoAFreshOneItIsTheSame) {
  const auto state = used_state();
  auto fresh = make();
  fresh->device().quiesce();
  if (GetParam().has_state) {
    EXPECT_NE(save_of(fresh->device(), 3), state);
  }
  restore_from(fresh->device(), state, 3);
  EXPECT_EQ(save_of(fresh->device(), 3), state);
}

TEST_P(DeviceStateTest, ResumedItGoesOn) {
  const auto state = used_state();
  auto fresh = make();
  fresh->device().quiesce();
  restore_from(fresh->device(), state, 3);
  fresh->device().resume();
  fresh->device().quiesce();
  EXPECT_FALSE(save_of(fresh->device(), 3).empty());
}

TEST_P(DeviceStateTest, SavingTwiceSavesTheSame) {
  auto rig = make();
  rig->use();
  rig->device().quiesce();
  EXPECT_EQ(save_of(rig->device()), save_of(rig->device()));
}

TEST_P(DeviceStateTest, EveryTruncationIsRefused) {
  const auto state = used_state();
  for (std::size_t size = 0; size < state.size(); size = size < 128 ? size + 1 : size + 7) {
    auto fresh = make();
    fresh->device().quiesce();
    EXPECT_THROW(restore_from(fresh->device(), std::span(state).first(size), 3), vmm::StateError)
        << size;
  }
}

TEST_P(DeviceStateTest, AShortOrLongPayloadIsRefused) {
  auto state = used_state();
  auto size = state.size() - sizeof(vmm::SectionHeader);
  const auto set_size = [&](std::uint64_t value) {
    std::memcpy(state.data() + offsetof(vmm::SectionHeader, size), &value, sizeof value);
  };
  state.push_back(std::byte{0});
  set_size(size + 1);
  auto fresh = make();
  fresh->device().quiesce();
  EXPECT_THROW(restore_from(fresh->device(), state, 3), vmm::StateError);
  if (size == 0) return;
  state.resize(state.size() - 2);
  set_size(size - 1);
  fresh = make();
  fresh->device().quiesce();
  EXPECT_THROW(restore_from(fresh->device(), state, 3), vmm::StateError);
}

TEST_P(DeviceStateTest, AnotherInstanceOrKindIsRefused) {
  const auto state = used_state();
  auto fresh = make();
  fresh->device().quiesce();
  EXPECT_THROW(restore_from(fresh->device(), state, 4), vmm::StateError);
  auto foreign = state;
  foreign[0] ^= std::byte{1};
  EXPECT_THROW(restore_from(fresh->device(), foreign, 3), vmm::StateError);
  auto newer = state;
  newer[offsetof(vmm::SectionHeader, version)] ^= std::byte{2};
  EXPECT_THROW(restore_from(fresh->device(), newer, 3), vmm::StateError);
}

// A corrupt payload is refused or taken; either way the device must go on without harm.
void feed(Rig& rig, const std::vector<std::byte>& state) {
  rig.device().quiesce();
  try {
    restore_from(rig.device(), state, 3);
  } catch (const vmm::StateError&) {
  }
  rig.device().resume();
  for (std::uint64_t offset = 0; offset < 64; offset += 4) {
    read_as<std::uint32_t>(rig.device(), offset);
    read_as<std::uint8_t>(rig.device(), offset);
  }
  rig.device().quiesce();
  save_of(rig.device());
}

TEST_P(DeviceStateTest, FlippedBitsDoNoHarm) {
  const auto state = used_state();
  std::mt19937 random(1);
  for (int i = 0; i < 300 && state.size() > sizeof(vmm::SectionHeader); ++i) {
    auto corrupt = state;
    for (unsigned flips = 1 + random() % 4; flips > 0; --flips) {
      const auto at =
          sizeof(vmm::SectionHeader) + random() % (state.size() - sizeof(vmm::SectionHeader));
      corrupt[at] ^= std::byte{static_cast<std::uint8_t>(1U << random() % 8)};
    }
    auto fresh = make();
    feed(*fresh, corrupt);
  }
}

TEST_P(DeviceStateTest, RandomBytesDoNoHarm) {
  const auto state = used_state();
  std::mt19937 random(2);
  for (int i = 0; i < 100; ++i) {
    auto corrupt = state;
    for (std::size_t at = sizeof(vmm::SectionHeader); at < corrupt.size(); ++at) {
      corrupt[at] = std::byte{static_cast<std::uint8_t>(random())};
    }
    auto fresh = make();
    feed(*fresh, corrupt);
  }
}

}  // namespace
}  // namespace godwit::devices
