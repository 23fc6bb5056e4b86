#include "vmm/devices/virtio/rng.h"

#include "tests/fuzz/plain_fuzz.h"

namespace godwit::fuzz {

std::vector<Bytes> fuzz_seeds() {
  return {Session()
              .bring_up()
              .descriptor(0, 0, 4 << 20, 64, 3, 1)
              .descriptor(0, 1, 5 << 20, 8000, 2, 0)
              .offer(0, 0, 0)
              .move()
              .offer(0, 1, 0)
              .bytes()};
}

}  // namespace godwit::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace godwit;
  fuzz::Input input(data, size);
  devices::PlainWiring wiring;
  devices::VirtioRng rng;
  fuzz::drive_plain(rng, wiring, input, [] {});
  return 0;
}
