// An address space (ports or MMIO) with devices attached explicitly. Attach at set-up from one
// thread; read() and write() from any vCPU thread. Does not own the devices.
#pragma once

#include <cstdint>
#include <map>
#include <span>

#include "vmm/devices/device.h"

namespace godwit::devices {

class Bus {
 public:
  /// Throws std::invalid_argument when the range is empty, wraps or overlaps another.
  void attach(std::uint64_t base, std::uint64_t size, Device& device);

  /// Unclaimed reads, and accesses that straddle a range's end, give all-ones; such writes vanish.
  void read(std::uint64_t address, std::span<std::byte> data) const;
  void write(std::uint64_t address, std::span<const std::byte> data) const;

 private:
  struct Range {
    std::uint64_t size;
    Device* device;
  };
  const std::pair<const std::uint64_t, Range>* find(std::uint64_t address, std::size_t size) const;
  std::map<std::uint64_t, Range> ranges_;  // by base
};

}  // namespace godwit::devices
