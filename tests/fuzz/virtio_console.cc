#include "vmm/devices/virtio/console.h"

#include "tests/fuzz/plain_fuzz.h"

namespace godwit::fuzz {

std::vector<Bytes> fuzz_seeds() {
  return {Session()
              .bring_up()
              .memory(4 << 20, Bytes(200, 'p'))
              .descriptor(1, 0, 4 << 20, 100, 1, 1)
              .descriptor(1, 1, (4 << 20) + 100, 9000, 0, 0)
              .offer(1, 0, 0)
              .descriptor(0, 0, 5 << 20, 4, 2, 0)
              .offer(0, 0, 0)
              .move()
              .offer(0, 1, 0)
              .offer(1, 1, 0)
              .bytes()};
}

}  // namespace godwit::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace godwit;
  fuzz::Input input(data, size);
  devices::PlainWiring wiring;
  std::uint64_t sum = 0;  // looks at every byte that is printed
  devices::VirtioConsole console([&sum](std::span<const std::byte> bytes) {
    for (const std::byte byte : bytes) sum += std::to_integer<std::uint64_t>(byte);
  });
  fuzz::drive_plain(console, wiring, input,
                    [&] { console.input(std::vector<std::byte>(100, std::byte{'t'})); });
  return 0;
}
