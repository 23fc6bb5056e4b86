// The PCI host bridge: configuration mechanism #1 on ports 0xCF8-0xCFF (PCI 3.0, 3.2.2.3.2), bus 0,
// one function a slot. Slot 0 is the bridge itself. Owned by Machine; functions are plugged at
// set-up from one thread, accesses come from any vCPU thread.
#pragma once

#include <array>
#include <cstdint>
#include <mutex>

#include "vmm/devices/device.h"
#include "vmm/devices/pci/config_space.h"

namespace godwit::devices {

/// What sits in a slot. Called with `size` 1, 2 or 4, inside one aligned doubleword; guards itself.
class PciFunction {
 public:
  virtual ~PciFunction() = default;
  virtual std::uint32_t read_config(unsigned offset, unsigned size) = 0;
  virtual void write_config(unsigned offset, unsigned size, std::uint32_t value) = 0;
};

class PciHostBridge final : public Device {
 public:
  static constexpr std::uint64_t kPorts = 8;
  static constexpr unsigned kSlots = 32;

  PciHostBridge();

  /// Puts a function into a slot (1..31). Does not own it. Throws std::invalid_argument when the
  /// slot does not exist or is taken.
  void plug(unsigned slot, PciFunction& function);

  std::string_view kind() const override { return "pci-host"; }
  void read(std::uint64_t offset, std::span<std::byte> data) override;
  void write(std::uint64_t offset, std::span<const std::byte> data) override;
  void save(vmm::StateWriter& writer, std::uint32_t instance) const override;
  void restore(vmm::StateReader& reader, std::uint32_t instance) override;

 private:
  class Self final : public PciFunction {
   public:
    Self();
    std::uint32_t read_config(unsigned offset, unsigned size) override;
    void write_config(unsigned offset, unsigned size, std::uint32_t value) override;
    ConfigSpace config;
  };

  /// The function that the address register selects, and the offset of its doubleword; or null.
  PciFunction* selected() const;
  unsigned selected_offset() const { return address_ & 0xfc; }

  mutable std::mutex mutex_;
  std::uint32_t address_ = 0;  // CONFIG_ADDRESS
  Self self_;
  std::array<PciFunction*, kSlots> functions_{};
};

}  // namespace godwit::devices
