#include "tests/fuzz/virtio_fuzz.h"
#include "tests/vmm/devices/virtio/net_fixture.h"

namespace godwit::fuzz {

std::vector<Bytes> fuzz_seeds() {
  std::vector<Bytes> seeds;
  for (const auto flags : std::initializer_list<std::uint8_t>{0, 1}) {
    Bytes packet(12 + 60, 0x5a);
    packet[0] = flags;                                 // needs a checksum
    packet[1] = static_cast<std::uint8_t>(flags * 4);  // GSO type
    seeds.push_back(Session()
                        .bring_up()
                        .descriptor(0, 0, 4 << 20, 2048, 2, 0)
                        .offer(0, 0, 0)
                        .memory(8 << 20, packet)
                        .descriptor(1, 0, 8 << 20, 72, 0, 0)
                        .offer(1, 0, 0)
                        .memory(9 << 20, {3, 0})
                        .descriptor(2, 0, 9 << 20, 2, 1, 1)
                        .descriptor(2, 1, (9 << 20) + 64, 1, 2, 0)
                        .offer(2, 0, 0)
                        .move()
                        .bytes());
  }
  return seeds;
}

}  // namespace godwit::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace godwit;
  fuzz::Input input(data, size);
  devices::NetMachine machine;
  devices::NetDriver driver(machine);
  const std::vector<char> frame(60, 'f');
  fuzz::drive(
      machine.device, machine.registers, machine.memory, 3,
      [&] {
        driver.bring_up();
        machine.send_to_guest(frame);
      },
      input);
  return 0;
}
