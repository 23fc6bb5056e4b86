#include "tests/fuzz/virtio_fuzz.h"
#include "tests/vmm/devices/virtio/blk_fixture.h"

namespace godwit::fuzz {

std::vector<Bytes> fuzz_seeds() {
  std::vector<Bytes> seeds;
  for (const auto type : std::initializer_list<std::uint8_t>{0, 1, 4, 8, 11, 13, 99}) {
    const Bytes header = {type, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0};
    const auto data = static_cast<std::uint8_t>(type == 0 || type == 8 ? 3 : 1);
    seeds.push_back(Session()
                        .bring_up()
                        .memory(4 << 20, header)
                        .memory(5 << 20, Bytes(64, type))
                        .descriptor(0, 0, 4 << 20, 16, 1, 1)
                        .descriptor(0, 1, 5 << 20, 512, data, 2)
                        .descriptor(0, 2, 6 << 20, 1, 2, 0)
                        .offer(0, 0, 0)
                        .move()
                        .offer(0, 1, 0)
                        .bytes());
  }
  return seeds;
}

}  // namespace godwit::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace godwit;
  static const devices::ScratchFile file(devices::kImageSize);
  fuzz::Input input(data, size);
  devices::BlkMachine machine(
      file.path, false,
      size % 2 == 0 ? devices::IoEngine::Kind::kBest : devices::IoEngine::Kind::kSynchronous);
  devices::BlkDriver driver(machine);
  fuzz::drive(
      machine.device, machine.registers, machine.memory, 1,
      [&] {
        machine.registers.set_status(0);
        driver.bring_up();
      },
      input);
  return 0;
}
