// virtio over PCI, modern only (virtio 1.2, 4.1): one function, one 32-bit BAR with the common,
// ISR, device and notification structures and the MSI-X table. Works with any backend. As a Device
// it is the BAR, as a PciFunction its configuration space; Machine attaches both. Accesses come
// from any vCPU thread and are serialised by one mutex; a device reset waits under it for the
// requests in flight.
//
//   0x0000  common configuration     0x3000  notification, 4 bytes a queue
//   0x1000  ISR status               0x4000  MSI-X table: vector 0 .. queues
//   0x2000  device configuration     0x5000  MSI-X pending bits
//
// Every doorbell is an eventfd in the DoorbellRegistry, registered for life, since the BAR cannot
// be moved (config_space.h); a doorbell write that comes through write() signals the same eventfd.
// There is no INTx: a driver that leaves MSI-X off has to poll the ISR status.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "vmm/devices/device.h"
#include "vmm/devices/interrupt.h"
#include "vmm/devices/pci/config_space.h"
#include "vmm/devices/pci/host_bridge.h"
#include "vmm/devices/pci/msix.h"
#include "vmm/devices/virtio/backend.h"
#include "vmm/memory/guest_memory.h"

namespace godwit::devices {

class VirtioPci final : public Device, public PciFunction, private VirtioHost {
 public:
  static constexpr std::uint64_t kBarSize = 0x8000;
  static constexpr std::uint16_t kNoVector = 0xffff;  // VIRTIO_MSI_NO_VECTOR

  /// `bar_address`: guest-physical, aligned to kBarSize, below 4 GiB. All references must outlive
  /// the device. Throws what creating vectors and registering doorbells throws.
  VirtioPci(VirtioBackend& backend, memory::GuestMemory& memory, MsiVectorFactory& vectors,
            DoorbellRegistry& doorbells, std::uint64_t bar_address);
  ~VirtioPci() override;
  VirtioPci(const VirtioPci&) = delete;
  VirtioPci& operator=(const VirtioPci&) = delete;

  std::string_view kind() const override { return backend_.kind(); }
  void read(std::uint64_t offset, std::span<std::byte> data) override;
  void write(std::uint64_t offset, std::span<const std::byte> data) override;
  void quiesce() override;
  void resume() override;
  void save(vmm::StateWriter& writer, std::uint32_t instance) const override;
  void restore(vmm::StateReader& reader, std::uint32_t instance) override;

  std::uint32_t read_config(unsigned offset, unsigned size) override;
  void write_config(unsigned offset, unsigned size, std::uint32_t value) override;

 private:
  static constexpr std::uint32_t kCommonSize = 56;
  // 4.1.4.3, but for what a queue owns.
  struct Common {
    std::uint32_t device_feature_select = 0;
    std::uint32_t driver_feature_select = 0;
    std::uint64_t driver_features = 0;
    std::uint16_t queue_select = 0;
    std::uint16_t reserved[3] = {};
  };
  struct Queue {
    Queue(memory::GuestMemory& memory, std::uint16_t max_size) : ring(memory, max_size) {}
    Virtqueue ring;
    sys::EventFd doorbell;
  };

  void interrupt_queue(unsigned queue) override;
  void config_changed() override;
  void needs_reset() override;

  std::uint64_t offered_features() const;
  bool acceptable(std::uint64_t features) const;
  void add_capabilities();
  std::uint64_t doorbell_address(std::size_t queue) const;

  void access_window(bool write);
  void read_bar(std::uint64_t offset, std::span<std::byte> data);
  void write_bar(std::uint64_t offset, std::span<const std::byte> data);
  std::array<std::byte, kCommonSize> common_bytes() const;
  void write_common(std::uint64_t offset, std::size_t size, std::uint64_t value);
  void write_queue(std::uint64_t offset, std::size_t size, std::uint64_t value);
  void write_status(std::uint8_t value);
  std::uint16_t valid_vector(std::uint64_t value) const;
  void interrupt(std::size_t index, std::uint8_t cause);
  void reset();
  void update_backend();
  void stop_backend();

  VirtioBackend& backend_;
  DoorbellRegistry& doorbells_;
  std::uint64_t bar_address_;
  ConfigSpace config_;
  std::uint8_t msix_capability_ = 0;
  std::uint8_t window_capability_ = 0;  // VIRTIO_PCI_CAP_PCI_CFG

  mutable std::mutex mutex_;  // guards all below but the atomics
  Common common_;
  std::vector<std::unique_ptr<Queue>> queues_;
  Msix msix_;  // has a lock of its own
  bool started_ = false;
  bool quiesced_ = false;
  bool restored_ = false;

  // Also touched by the backend's threads.
  std::vector<std::atomic<std::uint16_t>> vectors_;  // of each queue, then of the configuration
  std::atomic<std::uint8_t> status_ = 0;             // device_status
  std::atomic<std::uint8_t> isr_ = 0;
  std::atomic<std::uint8_t> generation_ = 0;
};

}  // namespace godwit::devices
