// What a hostile driver can do to a virtio device, as operations of an input: registers, PCI
// configuration, rings and their memory, moves in the middle of it.
#pragma once

#include "tests/fuzz/fuzz.h"
#include "tests/vmm/devices/virtio/driver.h"

namespace godwit::fuzz {

/// `bring_up` makes the device ready with its rings at 1, 2, ... MiB, as an honest driver does.
/// Guest RAM is 16 MiB.
template <typename BringUp>
void drive(devices::VirtioPci& device, devices::Registers& registers, memory::GuestMemory& memory,
           unsigned queues, BringUp bring_up, Input& input) {
  constexpr std::uint64_t kBarSize = devices::VirtioPci::kBarSize;
  for (int i = 0; i < 512 && !input.empty(); ++i) {
    const auto what = input.take<std::uint8_t>();
    const unsigned width = 1u << (what >> 6);
    const unsigned queue = (what >> 4 & 3) % queues;
    const std::uint64_t ring = (1 + queue) << 20;
    std::array<std::byte, 8> value{};
    switch (what & 15) {
      case 0:
        bring_up();
        break;
      case 1:
        device.read(input.take<std::uint16_t>() % kBarSize, std::span(value).first(width));
        break;
      case 2: {
        const std::uint64_t offset = input.take<std::uint16_t>() % kBarSize;
        value = input.take<std::array<std::byte, 8>>();
        device.write(offset, std::span(value).first(width));
        break;
      }
      case 3:
        device.read_config(input.take<std::uint8_t>(), std::min(width, 4u));
        break;
      case 4: {
        const unsigned offset = input.take<std::uint8_t>();
        device.write_config(offset, std::min(width, 4u), input.take<std::uint32_t>());
        break;
      }
      case 5: {  // a register of the common configuration
        const std::uint64_t offset = registers.common + input.take<std::uint8_t>() % 64;
        value = input.take<std::array<std::byte, 8>>();
        device.write(offset, std::span(value).first(width));
        break;
      }
      case 6: {  // a descriptor
        const std::uint64_t at = ring + 16 * std::uint64_t{input.take<std::uint8_t>()};
        memory.store(at, std::uint64_t{input.take<std::uint32_t>()});
        memory.store(at + 8, std::uint32_t{input.take<std::uint16_t>()});
        memory.store(at + 12, std::uint16_t{input.take<std::uint8_t>()});
        memory.store(at + 14, std::uint16_t{input.take<std::uint8_t>()});
        break;
      }
      case 7: {  // the available ring of 256
        const std::uint64_t available = ring + 16 * 256;
        memory.store(available + 4 + 2 * std::uint64_t{input.take<std::uint8_t>()},
                     input.take<std::uint16_t>());
        memory.store(available + 2, std::uint16_t{input.take<std::uint8_t>()});
        break;
      }
      case 8:
      case 9: {
        value[0] = static_cast<std::byte>(queue);
        device.write(registers.notify + registers.multiplier * queue, std::span(value).first(2));
        break;
      }
      case 10:
      case 11: {
        const std::uint64_t at = input.take<std::uint32_t>() % (17u << 20);
        memory.write(at, std::as_bytes(input.bytes(input.take<std::uint8_t>())));
        break;
      }
      case 12: {
        device.quiesce();
        const auto state = devices::save_of(device);
        devices::restore_from(device, state);
        device.resume();
        break;
      }
      default:
        break;
    }
  }
  device.quiesce();
}

/// An honest request: bring up, memory, descriptors, available ring, doorbell.
class Session {
 public:
  Session& bring_up() { return byte(0); }
  Session& memory(std::uint32_t at, const Bytes& bytes) {
    byte(10);
    put(bytes_, at);
    put(bytes_, static_cast<std::uint8_t>(bytes.size()));
    bytes_.insert(bytes_.end(), bytes.begin(), bytes.end());
    return *this;
  }
  Session& descriptor(unsigned queue, std::uint8_t index, std::uint32_t address,
                      std::uint16_t length, std::uint8_t flags, std::uint8_t next) {
    byte(6 | queue << 4);
    put(bytes_, index);
    put(bytes_, address);
    put(bytes_, length);
    put(bytes_, flags);
    put(bytes_, next);
    return *this;
  }
  Session& offer(unsigned queue, std::uint8_t slot, std::uint16_t head) {
    byte(7 | queue << 4);
    put(bytes_, slot);
    put(bytes_, head);
    put(bytes_, static_cast<std::uint8_t>(slot + 1));
    return byte(8 | queue << 4);
  }
  Session& move() { return byte(12); }
  Session& byte(unsigned value) {
    bytes_.push_back(static_cast<std::uint8_t>(value));
    return *this;
  }
  Bytes bytes() const { return bytes_; }

 private:
  Bytes bytes_;
};

}  // namespace godwit::fuzz
