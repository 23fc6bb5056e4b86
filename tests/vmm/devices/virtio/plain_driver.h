// A driver of any virtio backend, for tests: all queues up, chains offered and answers waited for
// one at a time. Guest RAM (16 MiB): queue q's ring at (1 + q) * 64 KiB.
#pragma once

#include <span>
#include <utility>
#include <vector>

#include "tests/vmm/devices/virtio/driver.h"

namespace godwit::devices {

/// Everything one side of a move has, around a backend.
struct PlainWiring {
  static constexpr std::uint64_t kBar = 0xc003'0000;
  memory::GuestMemory memory{16 << 20};
  FakeVectors vectors;
  FakeDoorbells doorbells;
};

class PlainDriver {
 public:
  PlainDriver(VirtioPci& device, memory::GuestMemory& memory, std::span<const std::uint16_t> sizes)
      : device_(device), memory_(memory), registers(device) {
    for (std::size_t i = 0; i < sizes.size(); ++i) {
      rings.emplace_back(memory, (1 + i) << 16, sizes[i]);
    }
  }

  std::uint8_t bring_up(std::uint64_t features = ~0ULL) {
    reset();
    registers.enable_msix(static_cast<unsigned>(rings.size()) + 1);
    registers.set_status(1);
    registers.set_status(3);
    registers.accept(registers.features() & features & ~(1ULL << 29));  // no event index
    registers.set_status(11);
    registers.set<std::uint16_t>(16, static_cast<std::uint16_t>(rings.size()));
    for (std::uint16_t i = 0; i < rings.size(); ++i) {
      registers.set<std::uint16_t>(22, i);
      registers.set<std::uint16_t>(24, rings[i].size());
      registers.set<std::uint16_t>(26, i);
      registers.set<std::uint64_t>(32, rings[i].descriptors());
      registers.set<std::uint64_t>(40, rings[i].available());
      registers.set<std::uint64_t>(48, rings[i].used());
      registers.set<std::uint16_t>(28, 1);
    }
    registers.set_status(15);
    return registers.status();
  }

  /// After it the rings are this driver's again, and empty.
  void reset() {
    registers.set_status(0);
    for (DriverRing& ring : rings) {
      const std::vector<std::byte> zeroes(ring.end() - ring.descriptors());
      memory_.write(ring.descriptors(), zeroes);
      ring.set_available_index(0);
    }
  }

  template <typename T>
  T config(std::uint64_t offset) {
    return read_as<T>(device_, registers.config + offset);
  }

  void kick(unsigned queue) {
    write_as<std::uint16_t>(device_, registers.notify + registers.multiplier * queue,
                            static_cast<std::uint16_t>(queue));
  }

  /// A chain at descriptor `first`, without waiting.
  void offer(unsigned queue, const std::vector<Buffer>& buffers, std::uint16_t first = 0) {
    rings[queue].set_chain(first, buffers);
    rings[queue].offer(first);
    kick(queue);
  }
  /// A chain, answered: how much was written, or nullopt when it never came back.
  std::optional<std::uint32_t> ask(unsigned queue, const std::vector<Buffer>& buffers) {
    DriverRing& ring = rings[queue];
    const auto before = ring.used_index();
    offer(queue, buffers);
    if (!eventually([&] { return ring.used_index() != before; })) return std::nullopt;
    return ring.used_length(before);
  }

  bool breaks() {
    return eventually([&] { return (registers.status() & 0x40) != 0; });
  }

  void store(std::uint64_t address, std::span<const std::byte> bytes) {
    memory_.write(address, bytes);
  }

 private:
  VirtioPci& device_;
  memory::GuestMemory& memory_;

 public:
  Registers registers;
  std::vector<DriverRing> rings;
};

/// RAM and state to another machine, which then runs.
inline void move_plain(PlainWiring& to, VirtioPci& to_device, PlainWiring& from,
                       VirtioPci& from_device) {
  from_device.quiesce();
  to_device.quiesce();
  const auto all = memory::PageRange{0, to.memory.pages()};
  const auto bytes = from.memory.page_bytes(all);
  std::copy(bytes.begin(), bytes.end(), to.memory.page_bytes(all).begin());
  restore_from(to_device, save_of(from_device));
  to_device.resume();
}

}  // namespace godwit::devices
