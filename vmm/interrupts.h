// Interrupts and doorbells by KVM. Lines and messages are delivered by ioctl, synchronously: when
// trigger() returns the interrupt is in the guest's interrupt controllers, and so in the state that
// a move saves. (An irqfd may deliver later, from a kernel thread; that would be an interrupt
// lost.) Owned by Machine; any thread.
#pragma once

#include "vmm/devices/interrupt.h"
#include "vmm/kvm/kvm.h"

namespace godwit::vmm {

class IoApicLine final : public devices::InterruptLine {
 public:
  IoApicLine(kvm::KvmVm& vm, unsigned gsi) : vm_(vm), gsi_(gsi) {}
  void trigger() override { vm_.pulse_irq(gsi_); }

 private:
  kvm::KvmVm& vm_;
  unsigned gsi_;
};

class KvmMsiVectors final : public devices::MsiVectorFactory {
 public:
  explicit KvmMsiVectors(kvm::KvmVm& vm) : vm_(vm) {}
  std::unique_ptr<devices::MsiVector> create() override;

 private:
  kvm::KvmVm& vm_;
};

/// Where the kernel has no room for another ioeventfd, the doorbell's write comes to the device as
/// any other does, which serves the same.
class KvmDoorbells final : public devices::DoorbellRegistry {
 public:
  explicit KvmDoorbells(kvm::KvmVm& vm) : vm_(vm) {}
  void add(std::uint64_t address, int event_fd) override;
  void remove(std::uint64_t address, int event_fd) override;

 private:
  kvm::KvmVm& vm_;
};

}  // namespace godwit::vmm
