// Interrupts and doorbells by KVM. A line is pulsed by ioctl; an MSI-X vector is an irqfd: its
// device signals an eventfd, and KVM sends the message that the vector's route holds. KVM may do
// that later, from a kernel thread, so a state that is saved meanwhile may be short of it: a device
// that was restored raises its interrupts once more (VirtioPci::resume). Owned by Machine; any
// thread.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>

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

/// The VM's table of interrupt routes (KVM API 4.52): the I/O APIC's inputs, then a GSI for each
/// MSI-X vector. KVM takes the table whole, after a grace period, so a vector's new route goes into
/// it only when the vector next fires, along with all others that wait.
class KvmMsiVectors final : public devices::MsiVectorFactory {
 public:
  /// Sets the table, for now the I/O APIC's `inputs` alone: GSIs from 0 on.
  KvmMsiVectors(kvm::KvmVm& vm, std::uint32_t inputs);

  /// Throws std::system_error when KVM has no GSI left.
  std::unique_ptr<devices::MsiVector> create() override;

 private:
  class Vector;
  using Messages = std::map<std::uint32_t, devices::MsiMessage>;  // by GSI

  void change(std::uint32_t gsi, const devices::MsiMessage& message);
  /// Has KVM take what was changed; throws std::system_error when it does not.
  void commit();
  void set_table(const Messages& messages);

  kvm::KvmVm& vm_;
  const std::uint32_t inputs_;
  const std::uint32_t gsi_end_;
  std::mutex mutex_;
  std::uint32_t next_gsi_;
  Messages set_;      // what KVM has
  Messages changed_;  // and what it has not yet
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
