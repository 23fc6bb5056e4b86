#include "vmm/interrupts.h"

#include <gtest/gtest.h>

#include <cstring>
#include <system_error>

#include "vmm/boot/layout.h"

namespace godwit::vmm {
namespace {

constexpr std::uint64_t kFirstApic = 0xfee00000;  // messages to the local APIC with ID 0

/// A VM whose only vCPU takes interrupts and never runs: what KVM delivers stays in its local
/// APIC's request register.
class KvmMsiVectorsTest : public testing::Test {
 protected:
  KvmMsiVectorsTest()
      : vm_(kvm_), chips_(vm_), vcpu_(kvm_, vm_, 0), vectors_(vm_, boot::kIoApicInputs) {
    kvm_lapic_state apic = vcpu_.get_lapic();
    const std::uint32_t enabled = 0x1ff;  // Intel SDM volume 3, 11.9
    std::memcpy(apic.regs + 0xf0, &enabled, sizeof enabled);
    vcpu_.set_lapic(apic);
  }

  bool requested(unsigned vector) const {
    const kvm_lapic_state apic = vcpu_.get_lapic();
    std::uint32_t word = 0;
    std::memcpy(&word, apic.regs + 0x200 + vector / 32 * 0x10, sizeof word);
    return (word >> (vector % 32) & 1) != 0;
  }

  void accept_all() {
    kvm_lapic_state apic = vcpu_.get_lapic();
    std::memset(apic.regs + 0x200, 0, 0x80);
    vcpu_.set_lapic(apic);
  }

  struct Chips {
    explicit Chips(kvm::KvmVm& vm) { vm.create_irqchip(); }
  };
  kvm::Kvm kvm_;
  kvm::KvmVm vm_;
  Chips chips_;
  kvm::KvmVcpu vcpu_;
  KvmMsiVectors vectors_;
};

TEST_F(KvmMsiVectorsTest, SendEachItsOwnMessage) {
  const auto disk = vectors_.create();
  const auto net = vectors_.create();
  disk->route({kFirstApic, 0x41});
  net->route({kFirstApic, 0x62});
  disk->trigger();
  EXPECT_TRUE(requested(0x41));
  EXPECT_FALSE(requested(0x62));
  net->trigger();
  EXPECT_TRUE(requested(0x62));
}

TEST_F(KvmMsiVectorsTest, SendTheNewMessageAfterAChange) {
  const auto disk = vectors_.create();
  const auto net = vectors_.create();
  net->route({kFirstApic, 0x50});
  net->trigger();
  disk->route({kFirstApic, 0x41});
  disk->route({kFirstApic, 0x42});
  disk->trigger();
  EXPECT_FALSE(requested(0x41));
  EXPECT_TRUE(requested(0x42));
  accept_all();
  net->trigger();
  EXPECT_TRUE(requested(0x50));  // the other's change left its route as it was
  net->route({kFirstApic, 0x51});
  net->trigger();
  EXPECT_TRUE(requested(0x51));
}

TEST_F(KvmMsiVectorsTest, SendNothingMoreWhenTheyHaveGone) {
  auto disk = vectors_.create();
  disk->route({kFirstApic, 0x41});
  disk.reset();
  const auto other = vectors_.create();
  other->route({kFirstApic, 0x42});
  other->trigger();
  EXPECT_TRUE(requested(0x42));
  EXPECT_FALSE(requested(0x41));
}

TEST_F(KvmMsiVectorsTest, SayWhenKvmHasNoRouteLeft) {
  std::vector<std::unique_ptr<devices::MsiVector>> all;
  const auto take_all = [&] {
    for (;;) all.push_back(vectors_.create());
  };
  EXPECT_THROW(take_all(), std::system_error);
  EXPECT_GT(all.size(), 100u);
}

}  // namespace
}  // namespace godwit::vmm
