#include "vmm/interrupts.h"

#include <mutex>
#include <system_error>

namespace godwit::vmm {
namespace {

constexpr std::uint32_t kDoorbellSize = 2;  // bytes: a virtio queue number

class KvmMsiVector final : public devices::MsiVector {
 public:
  explicit KvmMsiVector(kvm::KvmVm& vm) : vm_(vm) {}

  void route(const devices::MsiMessage& message) override {
    const std::lock_guard lock(mutex_);
    message_ = message;
  }

  void trigger() override {
    const std::lock_guard lock(mutex_);
    vm_.signal_msi(message_.address, message_.data);
  }

 private:
  kvm::KvmVm& vm_;
  std::mutex mutex_;
  devices::MsiMessage message_;
};

}  // namespace

std::unique_ptr<devices::MsiVector> KvmMsiVectors::create() {
  return std::make_unique<KvmMsiVector>(vm_);
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
