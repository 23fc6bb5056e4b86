// Where a guest's kernel says that it has panicked: QEMU's pvpanic (docs/specs/pvpanic.rst), one
// port, ACPI device QEMU0001, so that Linux's driver finds it. Owned by Machine; read() and write()
// come from vCPU threads, panicked() from any.
#pragma once

#include <atomic>

#include "vmm/devices/device.h"

namespace godwit::devices {

class Pvpanic final : public Device {
 public:
  static constexpr std::uint64_t kPorts = 1;
  static constexpr std::uint8_t kPanicked = 0x01;  // the one event that is offered and heeded

  bool panicked() const { return panicked_; }

  std::string_view kind() const override { return "pvpanic"; }
  void read(std::uint64_t offset, std::span<std::byte> data) override;
  void write(std::uint64_t offset, std::span<const std::byte> data) override;
  void save(vmm::StateWriter& writer, std::uint32_t instance) const override;
  void restore(vmm::StateReader& reader, std::uint32_t instance) override;

 private:
  std::atomic<bool> panicked_ = false;
};

}  // namespace godwit::devices
