// The 256 bytes of PCI configuration space of one function (PCI 3.0, chapter 6): header, one memory
// BAR, a list of capabilities. Writes reach only writable bits. Owned by its function, which guards
// it.
//
// The BAR is hard-wired: we place it, the bus decodes it there and nowhere else. The guest may size
// it and write it as it likes; while its value is not our address, or memory decoding is off, the
// function simply does not answer. Linux keeps firmware's placement as long as it lies in the
// bridge's window.
#pragma once

#include <array>
#include <cstdint>
#include <span>

#include "vmm/state.h"

namespace godwit::devices {

struct PciIdentity {
  std::uint16_t vendor = 0;
  std::uint16_t device = 0;
  std::uint16_t subsystem_vendor = 0;
  std::uint16_t subsystem = 0;
  std::uint32_t class_code = 0;  // class, subclass, interface: 24 bits
  std::uint8_t revision = 0;
};

class ConfigSpace {
 public:
  static constexpr unsigned kSize = 256;

  explicit ConfigSpace(const PciIdentity& identity);

  /// Makes BAR 0 a 32-bit memory BAR of `size` bytes (a power of two, at least 16) at `address`
  /// (aligned to it, below 4 GiB), and turns decoding on, as firmware would. Else
  /// std::invalid_argument.
  void set_bar(std::uint64_t address, std::uint64_t size);

  /// Appends a capability: `body` follows the id and next bytes; bits set in `writable` (as long as
  /// body, or empty) can be written by the guest. Returns the offset of its id byte. Throws
  /// std::invalid_argument when there is no room.
  std::uint8_t add_capability(std::uint8_t id, std::span<const std::uint8_t> body,
                              std::span<const std::uint8_t> writable = {});

  /// `size` is 1, 2 or 4; an access past the end reads all-ones and writes nothing.
  std::uint32_t read(unsigned offset, unsigned size) const;
  void write(unsigned offset, unsigned size, std::uint32_t value);

  /// Whether accesses to our BAR are claimed now.
  bool decodes() const;

  /// Puts and gets the writable part; the rest must be the same on both sides, else StateError.
  void save(vmm::StateWriter& writer) const;
  void restore(vmm::StateReader& reader);

 private:
  void set(unsigned offset, unsigned size, std::uint32_t value, std::uint32_t writable);

  std::array<std::uint8_t, kSize> bytes_{};
  std::array<std::uint8_t, kSize> writable_{};
  std::uint64_t bar_address_ = 0;
  std::uint64_t bar_size_ = 0;
  unsigned last_capability_ = 0;  // where its offset has to be written
  unsigned next_free_ = 0x40;
};

}  // namespace godwit::devices
