// The MSI-X table and pending bits of one function (PCI 3.0, 6.8.2). Owned by the function, which
// maps them into its BAR and tells of writes to Message Control. trigger() may be called from any
// thread.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <vector>

#include "vmm/devices/interrupt.h"
#include "vmm/state.h"

namespace godwit::devices {

class Msix {
 public:
  static constexpr std::uint8_t kCapabilityId = 0x11;
  static constexpr std::uint64_t kEntrySize = 16;
  static constexpr unsigned kMaxVectors = 64;  // one word of pending bits
  static constexpr std::uint16_t kControlEnable = 0x8000, kControlMaskAll = 0x4000;

  /// `vectors`: 1..kMaxVectors. The factory must outlive this object.
  Msix(unsigned vectors, MsiVectorFactory& factory);

  unsigned vectors() const { return static_cast<unsigned>(entries_.size()); }

  /// Accesses of 4 or 8 aligned bytes; others, and those past the end, read all-ones and write
  /// nothing.
  void read_table(std::uint64_t offset, std::span<std::byte> data) const;
  void write_table(std::uint64_t offset, std::span<const std::byte> data);
  void read_pending(std::uint64_t offset, std::span<std::byte> data) const;

  /// The guest wrote Message Control.
  void set_control(std::uint16_t control);

  /// Sends the vector's message, or sets its pending bit while it is masked. Nothing happens while
  /// MSI-X is off, or if there is no such vector.
  void trigger(unsigned vector);

  void save(vmm::StateWriter& writer) const;
  /// Throws std::system_error as well when the host runs out of routes. Call set_control() with the
  /// restored register first. Delivers nothing.
  void restore(vmm::StateReader& reader);

 private:
  struct Entry {
    std::uint32_t address_low = 0;
    std::uint32_t address_high = 0;
    std::uint32_t data = 0;
    std::uint32_t control = 1;  // bit 0: masked, as after reset
  };

  bool masked(unsigned vector) const;
  void write_dword(std::uint64_t offset, std::uint32_t value);
  void route(unsigned vector);
  void update(unsigned vector);

  mutable std::mutex mutex_;
  bool enabled_ = false;
  bool mask_all_ = false;
  std::uint64_t pending_ = 0;
  std::vector<Entry> entries_;
  std::vector<std::unique_ptr<MsiVector>> lines_;
  std::vector<std::optional<MsiMessage>> routed_;  // what each line was last told
};

}  // namespace godwit::devices
