#include "vmm/virtio_devices.h"

#include <fmt/format.h>

#include <algorithm>
#include <stdexcept>
#include <utility>

#include "vmm/boot/layout.h"
#include "vmm/devices/virtio/balloon.h"
#include "vmm/devices/virtio/blk.h"
#include "vmm/devices/virtio/console.h"
#include "vmm/devices/virtio/disk_image.h"
#include "vmm/devices/virtio/net.h"
#include "vmm/devices/virtio/pci_transport.h"
#include "vmm/devices/virtio/rng.h"
#include "vmm/devices/virtio/tap.h"
#include "vmm/devices/virtio/vsock.h"
#include "vmm/mac_address.h"
#include "vmm/machine.h"
#include "vmm/sys/for_option.h"

namespace godwit::vmm {

namespace {

MacAddress mac_of(const NetConfig& config) {
  const auto mac = parse_mac(config.mac);
  if (!mac) throw std::runtime_error(fmt::format("{} is no station's MAC address", config.mac));
  return *mac;
}

VsockConfig checked(const VsockConfig& config) {
  if (config.cid < devices::kVsockMinCid || config.cid > devices::kVsockMaxCid) {
    throw std::runtime_error(fmt::format("{} is no guest's CID (vsock)", config.cid));
  }
  return config;
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
      : image(config.path, config.read_only, config.direct),
        blk(image, config.serial.empty() ? fmt::format("godwit-disk{}", index) : config.serial),
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

struct VirtioDevices::Rng {
  explicit Rng(Wiring& wiring) : pci(wiring.attach(rng)) {}

  devices::VirtioRng rng;
  std::unique_ptr<devices::VirtioPci> pci;
};

struct VirtioDevices::Balloon {
  explicit Balloon(Wiring& wiring) : balloon(wiring.memory), pci(wiring.attach(balloon)) {}

  devices::VirtioBalloon balloon;
  std::unique_ptr<devices::VirtioPci> pci;
};

struct VirtioDevices::Vsock {
  Vsock(const VsockConfig& config, Wiring& wiring)
      : vsock(checked(config).cid, config.path), pci(wiring.attach(vsock)) {}

  devices::VirtioVsock vsock;
  std::unique_ptr<devices::VirtioPci> pci;
};

struct VirtioDevices::Console {
  Console(devices::VirtioConsole::Sink output, Wiring& wiring)
      : console(std::move(output)), pci(wiring.attach(console)) {}

  devices::VirtioConsole console;
  std::unique_ptr<devices::VirtioPci> pci;
};

VirtioDevices::VirtioDevices(const MachineConfig& config,
                             std::function<void(std::span<const std::byte>)> console_output,
                             memory::GuestMemory& memory, KvmMsiVectors& vectors,
                             KvmDoorbells& doorbells, devices::Bus& mmio,
                             devices::PciHostBridge& bridge)
    : wiring_(new Wiring{memory, vectors, doorbells, mmio, bridge}) {
  for (const DiskConfig& disk : config.disks) {
    disks_.push_back(sys::for_option(
        "disk", [&] { return std::make_unique<Disk>(disk, disks_.size(), *wiring_); }));
  }
  for (const NetConfig& net : config.nets) {
    nets_.push_back(sys::for_option("net", [&] { return std::make_unique<Net>(net, *wiring_); }));
  }
  if (config.rng) rng_ = std::make_unique<Rng>(*wiring_);
  if (config.balloon) balloon_ = std::make_unique<Balloon>(*wiring_);
  if (config.vsock.cid != 0) {
    vsock_ =
        sys::for_option("vsock", [&] { return std::make_unique<Vsock>(config.vsock, *wiring_); });
  }
  if (config.console) console_ = std::make_unique<Console>(std::move(console_output), *wiring_);
}

VirtioDevices::~VirtioDevices() = default;

std::size_t VirtioDevices::count() const { return wiring_->slot - 1; }

void VirtioDevices::for_each(
    const std::function<void(devices::Device&, std::uint32_t)>& action) const {
  for (std::uint32_t i = 0; i < disks_.size(); ++i) action(*disks_[i]->pci, i);
  for (std::uint32_t i = 0; i < nets_.size(); ++i) action(*nets_[i]->pci, i);
  if (rng_) action(*rng_->pci, 0);
  if (balloon_) action(*balloon_->pci, 0);
  if (vsock_) action(*vsock_->pci, 0);
  if (console_) action(*console_->pci, 0);
}

void VirtioDevices::lock_disks() {
  for (const auto& disk : disks_) sys::for_option("disk", [&] { disk->image.lock(); });
}

void VirtioDevices::unlock_disks() {
  for (const auto& disk : disks_) disk->image.unlock();
}

bool VirtioDevices::disks_tell() const {
  bool any = false;
  for (const auto& disk : disks_) {
    if (disk->image.read_only()) continue;
    if (disk->image.block_device() || !disk->image.locked_elsewhere()) return false;
    any = true;
  }
  return any;
}

std::vector<std::int64_t> VirtioDevices::disk_stamps() const {
  std::vector<std::int64_t> stamps;
  for (const auto& disk : disks_) {
    if (!disk->image.read_only()) stamps.push_back(disk->image.stamp());
  }
  return stamps;
}

void VirtioDevices::mark_disks() {
  for (const auto& disk : disks_) {
    if (!disk->image.read_only()) disk->image.mark();
  }
  if (disks_locked_elsewhere()) {
    throw std::runtime_error("somebody else has taken a disk's lock meanwhile");
  }
}

bool VirtioDevices::disks_locked_elsewhere() const {
  return std::any_of(disks_.begin(), disks_.end(), [](const auto& disk) {
    return !disk->image.read_only() && disk->image.locked_elsewhere();
  });
}

std::size_t VirtioDevices::hvc_input(std::span<const std::byte> bytes) {
  return console_ ? console_->console.input(bytes) : bytes.size();
}

void VirtioDevices::set_balloon(std::uint64_t bytes) {
  if (!balloon_) throw std::runtime_error("it has no balloon (run --balloon)");
  if (const std::uint64_t all = wiring_->memory.size(); bytes > all) {
    throw std::runtime_error(fmt::format("its memory is {} bytes, it cannot give {}", all, bytes));
  }
  balloon_->balloon.set_target(static_cast<std::uint32_t>(bytes / memory::kPageSize));
}

std::optional<BalloonState> VirtioDevices::balloon() const {
  if (!balloon_) return std::nullopt;
  devices::VirtioBalloon& balloon = balloon_->balloon;
  BalloonState state{.target = balloon.target() * memory::kPageSize,
                     .actual = balloon.actual() * memory::kPageSize,
                     .reported = balloon.reported_bytes()};
  const devices::BalloonStatistics said = balloon.statistics();
  for (std::size_t i = 0; i < said.values.size(); ++i) {
    if (said.values[i]) state.statistics.emplace_back(said.kNames[i], *said.values[i]);
  }
  return state;
}

std::vector<DiskErrors> VirtioDevices::disk_errors() const {
  std::vector<DiskErrors> errors;
  for (const auto& disk : disks_) errors.push_back({disk->blk.errors(), disk->blk.last_error()});
  return errors;
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
