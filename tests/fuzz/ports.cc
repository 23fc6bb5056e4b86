// The devices on ports, and PCI configuration behind the host bridge: whatever is read or written.
#include "tests/fuzz/virtio_fuzz.h"
#include "tests/vmm/devices/virtio/blk_fixture.h"
#include "vmm/devices/bus.h"
#include "vmm/devices/pci/host_bridge.h"
#include "vmm/devices/power.h"
#include "vmm/devices/pvpanic.h"
#include "vmm/devices/serial.h"

namespace godwit::fuzz {
namespace {

void access(Bytes& bytes, std::uint8_t what, std::uint16_t port, std::uint32_t value) {
  bytes.push_back(what);
  put(bytes, port);
  put(bytes, value);
}

}  // namespace

std::vector<Bytes> fuzz_seeds() {
  Bytes config;
  for (std::uint32_t offset = 0; offset < 256; offset += 4) {
    access(config, 0x81, 0xcf8, 0x80000800 | offset);
    access(config, 0x80, 0xcfc, 0);
    access(config, 0x81, 0xcfc, 0xffffffff);
  }
  Bytes console;
  for (std::uint16_t port = 0x3f8; port < 0x400; ++port) access(console, 1, port, 0x5f);
  access(console, 2, 0, 16);
  Bytes power;
  for (const auto port :
       std::initializer_list<std::uint16_t>{0x600, 0x601, 0x602, 0x603, 0x505, 0x64}) {
    access(power, 1, port, 0x34);
    access(power, 0, port, 0);
  }
  return {config, console, power};
}

}  // namespace godwit::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace godwit;
  static const devices::ScratchFile file(devices::kImageSize);
  fuzz::Input input(data, size);
  devices::CountingLine line;
  devices::Serial serial(line, nullptr);
  devices::Power power(
      line, [] {}, [] {});
  devices::KeyboardReset keyboard([] {});
  devices::Pvpanic pvpanic;
  devices::PciHostBridge bridge;
  devices::BlkMachine disk(file.path, true, devices::IoEngine::Kind::kSynchronous);
  bridge.plug(1, disk.device);
  devices::Bus ports;
  ports.attach(0x3f8, 8, serial);
  ports.attach(0x600, devices::Power::kPorts, power);
  ports.attach(0x64, 1, keyboard);
  ports.attach(0x505, devices::Pvpanic::kPorts, pvpanic);
  ports.attach(0xcf8, 8, bridge);
  for (int i = 0; i < 2048 && !input.empty(); ++i) {
    const auto what = input.take<std::uint8_t>();
    const auto port = input.take<std::uint16_t>();
    const auto value = input.take<std::array<std::byte, 4>>();
    std::array<std::byte, 8> bytes{};
    std::copy(value.begin(), value.end(), bytes.begin());
    const std::size_t width = std::size_t{1} << (what >> 6);
    switch (what & 7) {
      case 0:
        ports.read(port, std::span(bytes).first(width));
        break;
      case 1:
        ports.write(port, std::span(bytes).first(width));
        break;
      case 2:
        serial.input(std::vector<std::byte>(std::to_integer<std::size_t>(value[0])));
        break;
      case 3:
        power.press_button();
        break;
      case 4:
        for (devices::Device* device : std::initializer_list<devices::Device*>{
                 &serial, &power, &keyboard, &pvpanic, &bridge}) {
          device->quiesce();
          const auto state = devices::save_of(*device);
          devices::restore_from(*device, state);
          device->resume();
        }
        break;
      default:
        break;
    }
  }
  return 0;
}
