#include "vmm/devices/virtio/balloon.h"

#include "tests/fuzz/plain_fuzz.h"

namespace godwit::fuzz {

std::vector<Bytes> fuzz_seeds() {
  const Bytes frames = {0, 6, 0, 0, 1, 6, 0, 0, 0, 9, 0, 0};
  const Bytes statistics = {4, 0, 1, 2, 3, 4, 5, 6, 7, 8};
  return {Session()
              .bring_up()
              .memory(4 << 20, frames)
              .descriptor(0, 0, 4 << 20, 12, 0, 0)
              .offer(0, 0, 0)
              .descriptor(1, 0, 4 << 20, 8, 0, 0)
              .offer(1, 0, 0)
              .memory(5 << 20, statistics)
              .descriptor(2, 0, 5 << 20, 10, 0, 0)
              .offer(2, 0, 0)
              .descriptor(3, 0, 8 << 20, 0xf000, 2, 0)
              .offer(3, 0, 0)
              .move()
              .offer(0, 1, 0)
              .bytes()};
}

}  // namespace godwit::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace godwit;
  fuzz::Input input(data, size);
  devices::PlainWiring wiring;
  devices::VirtioBalloon balloon(wiring.memory);
  // Held memory for some inputs: what is not punched at once.
  std::optional<memory::GuestMemory::Hold> hold;
  if (size % 2 == 0) hold.emplace(wiring.memory);
  fuzz::drive_plain(balloon, wiring, input, [&] {
    balloon.set_target(100);
    balloon.statistics();
  });
  return 0;
}
