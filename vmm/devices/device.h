// What every device is: three small virtuals on an offset relative to its range, and a state that
// can be saved and restored. A device knows neither Machine nor KVM; it is given interrupt lines
// and guest memory. read() and write() come from any vCPU thread, so a device guards its own state.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

#include "vmm/state.h"

namespace godwit::devices {

class Device {
 public:
  virtual ~Device() = default;

  /// Kind and instance name the device's state section.
  virtual std::string_view kind() const = 0;

  /// Guest access of data.size() bytes (1, 2, 4 or 8) at `offset`. Never throws for what a guest
  /// did: an access that makes no sense reads as all-ones and writes nothing.
  virtual void read(std::uint64_t offset, std::span<std::byte> data) = 0;
  virtual void write(std::uint64_t offset, std::span<const std::byte> data) = 0;

  /// Between quiesce() and resume() the device starts no work, has none in flight, and touches
  /// neither guest memory nor its interrupt. Called by Machine with all vCPUs stopped. Idempotent.
  virtual void quiesce() {}
  virtual void resume() {}

  /// Only between quiesce() and resume(). restore() throws vmm::StateError on state it cannot take.
  virtual void save(vmm::StateWriter& writer, std::uint32_t instance) const = 0;
  virtual void restore(vmm::StateReader& reader, std::uint32_t instance) = 0;
};

}  // namespace godwit::devices
