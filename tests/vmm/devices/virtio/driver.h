// A virtio driver of our own, for tests: it finds the structures by the capabilities, negotiates,
// lays out rings in guest RAM and talks to the device the way Linux does, from the test's thread.
#pragma once

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "tests/vmm/devices/fakes.h"
#include "vmm/devices/virtio/pci_transport.h"
#include "vmm/memory/guest_memory.h"

namespace godwit::devices {

constexpr std::uint16_t kDescNext = 1, kDescWrite = 2, kDescIndirect = 4;

struct Buffer {
  std::uint64_t address;
  std::uint32_t length;
  bool write = false;
};

inline bool eventually(const std::function<bool()>& condition) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(20);
  while (!condition()) {
    if (std::chrono::steady_clock::now() > end) return false;
    std::this_thread::sleep_for(std::chrono::microseconds(50));
  }
  return true;
}

/// The registers of a VirtioPci, by name.
class Registers {
 public:
  explicit Registers(VirtioPci& device) : device_(device) {
    for (unsigned at = device.read_config(0x34, 1); at != 0; at = device.read_config(at + 1, 1)) {
      if (device.read_config(at, 1) == 0x11) msix = at;
      if (device.read_config(at, 1) != 0x09) continue;
      const unsigned type = device.read_config(at + 3, 1);
      const std::uint32_t offset = device.read_config(at + 8, 4);
      if (type == 1) common = offset;
      if (type == 2) {
        notify = offset;
        multiplier = device.read_config(at + 16, 4);
      }
      if (type == 3) isr = offset;
      if (type == 4) config = offset;
      if (type == 5) window = at;
    }
    table = device.read_config(msix + 4, 4);
  }

  template <typename T>
  T get(std::uint64_t field) {
    return read_as<T>(device_, common + field);
  }
  template <typename T>
  void set(std::uint64_t field, T value) {
    write_as<T>(device_, common + field, value);
  }
  std::uint8_t status() { return get<std::uint8_t>(20); }
  void set_status(std::uint8_t value) { set<std::uint8_t>(20, value); }
  std::uint64_t features() {
    set<std::uint32_t>(0, 0);
    const std::uint64_t low = get<std::uint32_t>(4);
    set<std::uint32_t>(0, 1);
    return low | std::uint64_t{get<std::uint32_t>(4)} << 32;
  }
  void accept(std::uint64_t features) {
    set<std::uint32_t>(8, 0);
    set<std::uint32_t>(12, static_cast<std::uint32_t>(features));
    set<std::uint32_t>(8, 1);
    set<std::uint32_t>(12, static_cast<std::uint32_t>(features >> 32));
  }
  /// Programs and unmasks all vectors and turns MSI-X on.
  void enable_msix(unsigned vectors) {
    for (unsigned i = 0; i < vectors; ++i) {
      write_as<std::uint32_t>(device_, table + 16 * i, 0xfee00000);
      write_as<std::uint32_t>(device_, table + 16 * i + 4, 0);
      write_as<std::uint32_t>(device_, table + 16 * i + 8, 0x40 + i);
      write_as<std::uint32_t>(device_, table + 16 * i + 12, 0);
    }
    device_.write_config(msix + 2, 2, 0x8000);
  }

  std::uint32_t common = 0, notify = 0, multiplier = 0, isr = 0, config = 0, window = 0, msix = 0,
                table = 0;

 private:
  VirtioPci& device_;
};

/// The driver's side of one split ring, in guest RAM at `base`.
class DriverRing {
 public:
  DriverRing(memory::GuestMemory& memory, std::uint64_t base, std::uint16_t size)
      : memory_(&memory), size_(size), base_(base) {}

  std::uint64_t descriptors() const { return base_; }
  std::uint64_t available() const { return base_ + 16 * size_; }
  std::uint64_t used() const { return (available() + 4 + 2 * size_ + 2 + 3) & ~std::uint64_t{3}; }
  std::uint64_t end() const { return used() + 4 + 8 * size_ + 2; }
  std::uint16_t size() const { return size_; }

  void set_descriptor(std::uint16_t index, std::uint64_t address, std::uint32_t length,
                      std::uint16_t flags, std::uint16_t next) {
    set_descriptor_at(base_ + 16 * index, address, length, flags, next);
  }
  void set_descriptor_at(std::uint64_t at, std::uint64_t address, std::uint32_t length,
                         std::uint16_t flags, std::uint16_t next) {
    memory_->store(at, address);
    memory_->store(at + 8, length);
    memory_->store(at + 12, flags);
    memory_->store(at + 14, next);
  }
  /// Writes a chain into descriptors first, first + 1, ...
  void set_chain(std::uint16_t first, const std::vector<Buffer>& buffers) {
    for (std::size_t i = 0; i < buffers.size(); ++i) {
      const bool last = i + 1 == buffers.size();
      const auto index = static_cast<std::uint16_t>(first + i);
      set_descriptor(
          index, buffers[i].address, buffers[i].length,
          static_cast<std::uint16_t>((buffers[i].write ? kDescWrite : 0) | (last ? 0 : kDescNext)),
          static_cast<std::uint16_t>(last ? 0 : index + 1));
    }
  }
  void offer(std::uint16_t head) {
    memory_->store(available() + 4 + 2 * (next_available_ % size_), head);
    set_available_index(++next_available_);
  }
  void set_available_index(std::uint16_t value) {
    next_available_ = value;
    index(available() + 2).store(value);
  }
  void set_available_flags(std::uint16_t value) { index(available()).store(value); }
  void set_used_event(std::uint16_t value) { index(available() + 4 + 2 * size_).store(value); }
  std::uint16_t available_event() { return index(used() + 4 + 8 * size_).load(); }
  std::uint16_t used_index() { return index(used() + 2).load(); }
  std::uint32_t used_id(std::uint16_t at) {
    return *memory_->load<std::uint32_t>(used() + 4 + 8 * (at % size_));
  }
  std::uint32_t used_length(std::uint16_t at) {
    return *memory_->load<std::uint32_t>(used() + 8 + 8 * (at % size_));
  }
  std::uint16_t next_available() const { return next_available_; }

 private:
  std::atomic_ref<std::uint16_t> index(std::uint64_t address) {
    auto* bytes = const_cast<std::byte*>(memory_->readable(address, 2)->data());
    return std::atomic_ref(*reinterpret_cast<std::uint16_t*>(bytes));
  }
  memory::GuestMemory* memory_;
  std::uint16_t size_;
  std::uint64_t base_;
  std::uint16_t next_available_ = 0;
};

/// Brings a device to DRIVER_OK with its first queue at `ring`; returns the status it reached.
inline std::uint8_t bring_up(Registers& registers, const DriverRing& ring, std::uint64_t features) {
  registers.set_status(0);
  registers.set_status(1);
  registers.set_status(3);
  registers.accept(features);
  registers.set_status(11);
  registers.set<std::uint16_t>(16, 1);  // configuration vector
  registers.set<std::uint16_t>(22, 0);
  registers.set<std::uint16_t>(24, ring.size());
  registers.set<std::uint16_t>(26, 0);
  for (const auto& [field, address] :
       {std::pair{32u, ring.descriptors()}, {40u, ring.available()}, {48u, ring.used()}}) {
    registers.set<std::uint32_t>(field, static_cast<std::uint32_t>(address));
    registers.set<std::uint32_t>(field + 4, static_cast<std::uint32_t>(address >> 32));
  }
  registers.set<std::uint16_t>(28, 1);
  registers.set_status(15);
  return registers.status();
}

}  // namespace godwit::devices
