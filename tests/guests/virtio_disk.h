// The first virtio disk of a guest's, one request of a block at a time, polled.
#pragma once

#include <cstdint>

#include "guest.h"
#include "vmm/boot/layout.h"

namespace guest {

constexpr unsigned kQueue = 8;
constexpr unsigned kBlock = 4096;

// virtio 1.2: 2.7.5 descriptors, 5.2.6 requests, 4.1.4.3 common configuration
constexpr std::uint16_t kNext = 1, kDeviceWrites = 2;
constexpr std::uint32_t kRead = 0, kWrite = 1;
constexpr unsigned kFeatureSelect = 8, kFeature = 12, kStatus = 20, kQueueSelect = 22,
                   kQueueSize = 24, kQueueEnable = 28, kQueueDescriptors = 32, kQueueDriver = 40,
                   kQueueDevice = 48;
constexpr std::uint8_t kFeaturesOk = 11, kDriverOk = 15;

struct Descriptor {
  std::uint64_t address;
  std::uint32_t length;
  std::uint16_t flags, next;
};
struct Request {
  std::uint32_t type, reserved;
  std::uint64_t sector;
};
alignas(4096) inline Descriptor descriptors[kQueue];
alignas(64) inline volatile std::uint16_t available[2 + kQueue + 1];
alignas(64) inline volatile std::uint16_t used[2 + 4 * kQueue + 1];
alignas(64) inline Request request;
alignas(64) inline std::uint64_t data[kBlock / 8];
inline volatile std::uint8_t result;

inline void out32(std::uint16_t port, std::uint32_t value) {
  asm volatile("outl %0, %1" : : "a"(value), "Nd"(port) : "memory");
}
inline std::uint32_t in32(std::uint16_t port) {
  std::uint32_t value;
  asm volatile("inl %1, %0" : "=a"(value) : "Nd"(port) : "memory");
  return value;
}
inline std::uint32_t read_config(unsigned slot, unsigned offset) {
  out32(0xcf8, 0x80000000u | slot << 11 | (offset & 0xfc));
  return in32(0xcfc);
}
template <typename T>
void store(std::uint64_t address, T value) {
  *reinterpret_cast<volatile T*>(address) = value;
}
inline void store_address(std::uint64_t at, const volatile void* value) {
  const auto address = reinterpret_cast<std::uint64_t>(value);
  store(at, static_cast<std::uint32_t>(address));
  store(at + 4, static_cast<std::uint32_t>(address >> 32));
}

/// The first virtio-blk function there is, one request at a time.
class Disk {
 public:
  bool find() {
    for (unsigned slot = 1; slot < 32; ++slot) {
      if (read_config(slot, 0) == 0x10421af4) {
        start(slot);
        return true;
      }
    }
    return false;
  }

  /// One block from or to `data`. False when the device says that it failed.
  bool transfer(std::uint32_t type, std::uint64_t block) {
    request = {type, 0, block * (kBlock / 512)};
    result = 0xff;
    const std::uint16_t direction = type == kRead ? kDeviceWrites : 0;
    descriptors[0] = {reinterpret_cast<std::uint64_t>(&request), sizeof request, kNext, 1};
    descriptors[1] = {reinterpret_cast<std::uint64_t>(data), kBlock,
                      static_cast<std::uint16_t>(kNext | direction), 2};
    descriptors[2] = {reinterpret_cast<std::uint64_t>(&result), 1, kDeviceWrites, 0};
    available[2 + sent_ % kQueue] = 0;
    asm volatile("mfence" : : : "memory");
    available[1] = ++sent_;
    asm volatile("mfence" : : : "memory");
    store<std::uint16_t>(notify_, 0);
    while (used[1] != sent_) sleep_ns(100'000);
    asm volatile("" : : : "memory");
    return result == 0;
  }

 private:
  void start(unsigned slot) {
    const std::uint64_t bar = godwit::boot::virtio_bar(slot);
    std::uint64_t common = bar;
    for (unsigned at = read_config(slot, 0x34) & 0xfc; at != 0;) {  // 4.1.4
      const std::uint32_t head = read_config(slot, at);
      if ((head & 0xff) == 0x09 && head >> 24 == 1) common = bar + read_config(slot, at + 8);
      if ((head & 0xff) == 0x09 && head >> 24 == 2) notify_ = bar + read_config(slot, at + 8);
      at = head >> 8 & 0xfc;
    }
    out32(0xcf8, 0x80000000u | slot << 11 | 4);
    out32(0xcfc, 6);  // memory and bus master
    store<std::uint8_t>(common + kStatus, 0);
    store<std::uint8_t>(common + kStatus, 3);
    store<std::uint32_t>(common + kFeatureSelect, 1);
    store<std::uint32_t>(common + kFeature, 1);  // VIRTIO_F_VERSION_1, and nothing else
    store<std::uint8_t>(common + kStatus, kFeaturesOk);
    store<std::uint16_t>(common + kQueueSelect, 0);
    store<std::uint16_t>(common + kQueueSize, kQueue);
    store_address(common + kQueueDescriptors, descriptors);
    store_address(common + kQueueDriver, available);
    store_address(common + kQueueDevice, used);
    store<std::uint16_t>(common + kQueueEnable, 1);
    store<std::uint8_t>(common + kStatus, kDriverOk);
  }

  std::uint64_t notify_ = 0;
  std::uint16_t sent_ = 0;
};

}  // namespace guest
