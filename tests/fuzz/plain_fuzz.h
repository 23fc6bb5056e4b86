// drive() for any backend.
#pragma once

#include "tests/fuzz/virtio_fuzz.h"
#include "tests/vmm/devices/virtio/plain_driver.h"

namespace godwit::fuzz {

/// `seen` is called whenever the driver has brought the device up.
template <typename Seen>
void drive_plain(devices::VirtioBackend& backend, devices::PlainWiring& wiring, Input& input,
                 Seen seen) {
  devices::VirtioPci device(backend, wiring.memory, wiring.vectors, wiring.doorbells,
                            devices::PlainWiring::kBar);
  devices::Registers registers(device);
  const auto queues = static_cast<std::uint16_t>(backend.queue_sizes().size());
  drive(
      device, registers, wiring.memory, queues,
      [&] {
        registers.set_status(0);
        registers.enable_msix(queues + 1u);
        registers.set_status(3);
        registers.accept(registers.features());
        registers.set_status(11);
        for (std::uint16_t i = 0; i < queues; ++i) {
          const std::uint64_t ring = (1 + std::uint64_t{i}) << 20;
          wiring.memory.write(ring, std::array<std::byte, 16 << 10>{});
          registers.set<std::uint16_t>(22, i);
          registers.set<std::uint16_t>(26, i);
          registers.set<std::uint64_t>(32, ring);
          registers.set<std::uint64_t>(40, ring + 16 * 256);
          registers.set<std::uint64_t>(48, ring + (8 << 10));
          registers.set<std::uint16_t>(28, 1);
        }
        registers.set_status(15);
        seen();
      },
      input);
}

}  // namespace godwit::fuzz
