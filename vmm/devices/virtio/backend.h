// What a virtio device is made of: a backend (block, network, ...) that serves virtqueues, and a
// transport that shows it to the guest. To add a device, write a backend; the transport stays as it
// is.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

#include "vmm/devices/virtio/queue.h"
#include "vmm/state.h"
#include "vmm/sys/event_fd.h"

namespace godwit::devices {

/// What a backend may ask of its transport. Any thread, also while the transport waits in stop().
class VirtioHost {
 public:
  virtual ~VirtioHost() = default;
  /// Raises the queue's interrupt. Ask Virtqueue::wants_interrupt() first.
  virtual void interrupt_queue(unsigned queue) = 0;
  /// Tells the driver that the device configuration changed.
  virtual void config_changed() = 0;
  /// The driver broke the rules: DEVICE_NEEDS_RESET, and a configuration interrupt (2.1.2). The
  /// backend must do nothing more with its queues until it is stopped.
  virtual void needs_reset() = 0;
};

/// One queue as its backend sees it. The doorbell counts up when the driver made chains available.
struct VirtioQueuePort {
  Virtqueue* queue = nullptr;
  const sys::EventFd* doorbell = nullptr;
};

class VirtioBackend {
 public:
  virtual ~VirtioBackend() = default;

  /// Names the state section: "virtio-blk".
  virtual std::string_view kind() const = 0;
  virtual std::uint16_t device_id() const = 0;  // virtio 1.2, 5: block is 2
  virtual std::uint32_t pci_class() const = 0;  // 24 bits
  virtual std::uint64_t features() const = 0;   // of the device type; the transport adds the ring's
  virtual std::span<const std::uint16_t> queue_sizes() const = 0;  // largest size of each queue

  /// Device configuration space. Any vCPU thread, under the transport's lock.
  virtual std::span<const std::byte> config() const = 0;
  virtual void write_config(std::uint64_t offset, std::span<const std::byte> data) {
    static_cast<void>(offset);
    static_cast<void>(data);
  }

  /// The driver is ready (or the device goes on after stop()). `features` are those negotiated.
  /// From now on the backend serves the enabled queues on threads of its own; it looks at each of
  /// them once without waiting for a doorbell, because requests may be there from before a stop or
  /// a move.
  virtual void start(VirtioHost& host, std::uint64_t features,
                     std::span<const VirtioQueuePort> queues) = 0;
  /// Returns once nothing is in flight and neither queues nor RAM will be touched. Idempotent.
  /// Chains that were not popped stay in the ring.
  virtual void stop() = 0;

  /// What the backend knows beyond its queues; inside the transport's section, only while stopped.
  virtual void save(vmm::StateWriter& writer) const { static_cast<void>(writer); }
  virtual void restore(vmm::StateReader& reader) { static_cast<void>(reader); }
  /// A device reset: forget what the driver set. Stopped before.
  virtual void reset() {}
};

}  // namespace godwit::devices
