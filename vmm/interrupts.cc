#include "vmm/interrupts.h"

#include <atomic>
#include <mutex>
#include <system_error>
#include <utility>
#include <vector>

#include "vmm/sys/event_fd.h"

namespace godwit::vmm {
namespace {

constexpr std::uint32_t kDoorbellSize = 2;  // bytes: a virtio queue number

kvm_irq_routing_entry io_apic_route(std::uint32_t input) {
  kvm_irq_routing_entry route = {};
  route.gsi = input;
  route.type = KVM_IRQ_ROUTING_IRQCHIP;
  route.u.irqchip.irqchip = KVM_IRQCHIP_IOAPIC;
  route.u.irqchip.pin = input;
  return route;
}

kvm_irq_routing_entry msi_route(std::uint32_t gsi, const devices::MsiMessage& message) {
  kvm_irq_routing_entry route = {};
  route.gsi = gsi;
  route.type = KVM_IRQ_ROUTING_MSI;
  route.u.msi.address_lo = static_cast<std::uint32_t>(message.address);
  route.u.msi.address_hi = static_cast<std::uint32_t>(message.address >> 32);
  route.u.msi.data = message.data;
  return route;
}

}  // namespace

class KvmMsiVectors::Vector final : public devices::MsiVector {
 public:
  Vector(KvmMsiVectors& owner, std::uint32_t gsi) : owner_(owner), gsi_(gsi) {
    owner_.vm_.irqfd(event_.fd(), gsi_);
  }

  void route(const devices::MsiMessage& message) override {
    owner_.change(gsi_, message);
    changed_ = true;
  }

  void trigger() override {
    if (changed_.exchange(false)) {
      try {
        owner_.commit();
      } catch (...) {
        changed_ = true;
        throw;
      }
    }
    event_.signal();
  }

 private:
  KvmMsiVectors& owner_;
  const std::uint32_t gsi_;
  std::atomic<bool> changed_ = false;
  sys::EventFd event_;  // KVM lets go of it when it is closed
};

KvmMsiVectors::KvmMsiVectors(kvm::KvmVm& vm, std::uint32_t inputs)
    : vm_(vm),
      inputs_(inputs),
      gsi_end_(static_cast<std::uint32_t>(vm.check_extension(KVM_CAP_IRQ_ROUTING))),
      next_gsi_(inputs) {
  set_table({});
}

std::unique_ptr<devices::MsiVector> KvmMsiVectors::create() {
  const std::lock_guard lock(mutex_);
  if (next_gsi_ >= gsi_end_) {
    throw std::system_error(ENOSPC, std::generic_category(), "an interrupt route for a device");
  }
  return std::make_unique<Vector>(*this, next_gsi_++);
}

void KvmMsiVectors::change(std::uint32_t gsi, const devices::MsiMessage& message) {
  const std::lock_guard lock(mutex_);
  changed_[gsi] = message;
}

void KvmMsiVectors::commit() {
  const std::lock_guard lock(mutex_);
  if (changed_.empty()) return;  // it went along with another
  changed_.insert(set_.begin(), set_.end());
  set_table(changed_);
  set_ = std::exchange(changed_, {});
}

void KvmMsiVectors::set_table(const Messages& messages) {
  std::vector<kvm_irq_routing_entry> table;
  // By default KVM has inputs below 16 reach the PICs, too, which the guest is told it has not:
  // what came from them would be an interrupt of a vector that nobody chose.
  for (std::uint32_t input = 0; input < inputs_; ++input) table.push_back(io_apic_route(input));
  for (const auto& [gsi, message] : messages) table.push_back(msi_route(gsi, message));
  vm_.set_gsi_routing(table);
}

void KvmDoorbells::add(std::uint64_t address, int event_fd) {
  try {
    vm_.ioeventfd(address, kDoorbellSize, event_fd, true);
  } catch (const std::system_error& error) {
    if (error.code() != std::errc::no_space_on_device) throw;
  }
}

void KvmDoorbells::remove(std::uint64_t address, int event_fd) {
  try {
    vm_.ioeventfd(address, kDoorbellSize, event_fd, false);
  } catch (const std::system_error& error) {
    if (error.code() != std::errc::no_such_file_or_directory) throw;  // add() had no room
  }
}

}  // namespace godwit::vmm
