// The virtio devices of one machine, built from its configuration: each with its backend, what that
// works on, and the PCI function that shows it. The slots, and so what the guest sees, follow from
// the configuration alone: disks from slot 1 on, then network cards, entropy, the balloon, vsock,
// the console. Owned by Machine.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "vmm/config.h"
#include "vmm/devices/bus.h"
#include "vmm/devices/device.h"
#include "vmm/devices/pci/host_bridge.h"
#include "vmm/interrupts.h"
#include "vmm/memory/guest_memory.h"

namespace godwit::vmm {

struct BalloonState;
struct DiskErrors;
struct Usage;

class VirtioDevices {
 public:
  /// Attaches every device to `mmio` and `bridge`. All references must outlive this. Throws
  /// std::runtime_error or std::system_error with one line for the user.
  VirtioDevices(const MachineConfig& config,
                std::function<void(std::span<const std::byte>)> console_output,
                memory::GuestMemory& memory, KvmMsiVectors& vectors, KvmDoorbells& doorbells,
                devices::Bus& mmio, devices::PciHostBridge& bridge);
  ~VirtioDevices();
  VirtioDevices(const VirtioDevices&) = delete;
  VirtioDevices& operator=(const VirtioDevices&) = delete;

  std::size_t count() const;
  /// `instance` counts the devices of one kind.
  void for_each(const std::function<void(devices::Device&, std::uint32_t instance)>& action) const;

  /// As Machine's.
  void lock_disks();
  void unlock_disks();
  bool disks_tell() const;
  std::vector<std::int64_t> disk_stamps() const;
  void mark_disks();
  bool disks_locked_elsewhere() const;

  std::size_t hvc_input(std::span<const std::byte> bytes);
  void set_balloon(std::uint64_t bytes);
  std::optional<BalloonState> balloon() const;
  std::vector<DiskErrors> disk_errors() const;
  /// Adds what the devices have moved. Any thread.
  void add_usage(Usage& usage) const;

 private:
  struct Wiring;
  struct Disk;
  struct Net;
  struct Rng;
  struct Balloon;
  struct Vsock;
  struct Console;

  std::unique_ptr<Wiring> wiring_;
  std::vector<std::unique_ptr<Disk>> disks_;
  std::vector<std::unique_ptr<Net>> nets_;
  std::unique_ptr<Rng> rng_;
  std::unique_ptr<Balloon> balloon_;
  std::unique_ptr<Vsock> vsock_;
  std::unique_ptr<Console> console_;
};

}  // namespace godwit::vmm
