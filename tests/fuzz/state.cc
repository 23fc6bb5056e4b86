// Every device's saved state as a peer or a file may have it.
#include "tests/fuzz/virtio_fuzz.h"
#include "tests/vmm/devices/virtio/blk_fixture.h"
#include "tests/vmm/devices/virtio/net_fixture.h"
#include "vmm/devices/pci/host_bridge.h"
#include "vmm/devices/power.h"
#include "vmm/devices/pvpanic.h"
#include "vmm/devices/serial.h"

namespace godwit::fuzz {
namespace {

/// All devices there are, new.
struct Devices {
  explicit Devices(const std::string& image)
      : disk(image, false, devices::IoEngine::Kind::kSynchronous) {
    for (devices::Device* device : all()) device->quiesce();
  }
  std::vector<devices::Device*> all() {
    return {&serial, &power, &pvpanic, &bridge, &disk.device, &net.device};
  }
  devices::CountingLine line;
  devices::Serial serial{line, nullptr};
  devices::Power power{line, [] {}, [] {}};
  devices::Pvpanic pvpanic;
  devices::PciHostBridge bridge;
  devices::BlkMachine disk;
  devices::NetMachine net;
};

const std::string& image() {
  static const devices::ScratchFile file(devices::kImageSize);
  return file.path;
}

}  // namespace

std::vector<Bytes> fuzz_seeds() {
  std::vector<Bytes> seeds;
  Devices devices(image());
  std::uint8_t number = 0;
  for (devices::Device* device : devices.all()) {
    const auto state = devices::save_of(*device);
    Bytes seed = {number++};
    for (const std::byte byte : state) seed.push_back(std::to_integer<std::uint8_t>(byte));
    seeds.push_back(std::move(seed));
  }
  return seeds;
}

}  // namespace godwit::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace godwit;
  if (size == 0) return 0;
  fuzz::Devices devices(fuzz::image());
  const auto all = devices.all();
  devices::Device& device = *all[data[0] % all.size()];
  vmm::StateReader reader(std::as_bytes(std::span(data + 1, size - 1)));
  try {
    device.restore(reader, 0);
    reader.finish();
  } catch (const vmm::StateError&) {
    return 0;
  }
  device.resume();
  device.quiesce();
  return 0;
}
