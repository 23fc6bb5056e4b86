#include "vmm/virtio_devices.h"

#include <fmt/format.h>

#include <stdexcept>

#include "vmm/boot/layout.h"
#include "vmm/devices/virtio/blk.h"
#include "vmm/devices/virtio/disk_image.h"
#include "vmm/devices/virtio/net.h"
#include "vmm/devices/virtio/pci_transport.h"
#include "vmm/devices/virtio/tap.h"
#include "vmm/mac_address.h"
#include "vmm/machine.h"

namespace godwit::vmm {

namespace {

MacAddress mac_of(const NetConfig& config) {
  const auto mac = parse_mac(config.mac);
  if (!mac) throw std::runtime_error(fmt::format("{} is no station's MAC address", config.mac));
  return *mac;
}

}  // namespace

/// Where the next device goes.
struct VirtioDevices::Wiring {
  memory::GuestMemory& memory;
  KvmMsiVectors& vectors;
  KvmDoorbells& doorbells;
  devices::Bus& mmio;
  devices::PciHostBridge& bridge;
  unsigned slot = 1;

  std::unique_ptr<devices::VirtioPci> attach(devices::VirtioBackend& backend) {
    if (slot >= devices::PciHostBridge::kSlots) {
      throw std::runtime_error(
          fmt::format("a guest has at most {} virtio devices", devices::PciHostBridge::kSlots - 1));
    }
    const std::uint64_t bar = boot::virtio_bar(slot);
    auto pci = std::make_unique<devices::VirtioPci>(backend, memory, vectors, doorbells, bar);
    mmio.attach(bar, devices::VirtioPci::kBarSize, *pci);
    bridge.plug(slot++, *pci);
    return pci;
  }
};

struct VirtioDevices::Disk {
  Disk(const DiskConfig& config, std::size_t index, Wiring& wiring)
      : image(config.path, config.read_only),
        blk(image, fmt::format("godwit-disk{}", index)),
        pci(wiring.attach(blk)) {}

  devices::DiskImage image;
  devices::VirtioBlk blk;
  std::unique_ptr<devices::VirtioPci> pci;
};

struct VirtioDevices::Net {
  Net(const NetConfig& config, Wiring& wiring)
      : tap(config.tap, config.bridge, config.mtu),
        net(tap, mac_of(config), static_cast<std::uint16_t>(config.mtu)),
        pci(wiring.attach(net)) {}

  devices::Tap tap;
  devices::VirtioNet net;
  std::unique_ptr<devices::VirtioPci> pci;
};

VirtioDevices::VirtioDevices(const MachineConfig& config, memory::GuestMemory& memory,
                             KvmMsiVectors& vectors, KvmDoorbells& doorbells, devices::Bus& mmio,
                             devices::PciHostBridge& bridge)
    : wiring_(new Wiring{memory, vectors, doorbells, mmio, bridge}) {
  for (const DiskConfig& disk : config.disks) {
    disks_.push_back(std::make_unique<Disk>(disk, disks_.size(), *wiring_));
  }
  for (const NetConfig& net : config.nets) {
    nets_.push_back(std::make_unique<Net>(net, *wiring_));
  }
}

VirtioDevices::~VirtioDevices() = default;

std::size_t VirtioDevices::count() const { return wiring_->slot - 1; }

void VirtioDevices::for_each(
    const std::function<void(devices::Device&, std::uint32_t)>& action) const {
  for (std::uint32_t i = 0; i < disks_.size(); ++i) action(*disks_[i]->pci, i);
  for (std::uint32_t i = 0; i < nets_.size(); ++i) action(*nets_[i]->pci, i);
}

void VirtioDevices::lock_disks() {
  for (const auto& disk : disks_) disk->image.lock();
}

void VirtioDevices::unlock_disks() {
  for (const auto& disk : disks_) disk->image.unlock();
}

void VirtioDevices::add_usage(Usage& usage) const {
  for (const auto& disk : disks_) {
    usage.disk_read_bytes += disk->blk.read_bytes();
    usage.disk_write_bytes += disk->blk.written_bytes();
  }
  for (const auto& net : nets_) {
    usage.net_receive_bytes += net->net.received_bytes();
    usage.net_send_bytes += net->net.sent_bytes();
  }
}

}  // namespace godwit::vmm
