// Power and reset of a HW_REDUCED ACPI machine, on four ports, and the event register behind its
// Generic Event Device (ACPI 6.4: 4.8.3.7 sleep registers, 4.8.3.6 reset register, 5.6.9 GED).
// Owned by Machine. read() and write() come from vCPU threads, press_button() from any. Values:
// boot/layout.h.
//
//   offset 0  sleep control (write): SLP_TYP in bits 2-4, SLP_EN bit 5; type S5 powers off
//   offset 1  sleep status: reads 0, nothing here ever wakes
//   offset 2  reset (write)
//   offset 3  events (read clears): bit 0 the power button, bit 1 a new generation ID; an edge on
//   the
//             event line announces them, and the DSDT's _EVT method reads the register and notifies
//             the PNP0C0C or the VM_Gen_Counter device
//
// Of a PC's other legacy ports only the keyboard controller's reset is there (KeyboardReset); what
// is not there reads all-ones: no keyboard (FADT: 8042 clear), no CMOS clock (FADT: CMOS RTC not
// present; the wall clock is kvmclock's), no speaker.
#pragma once

#include <cstdint>
#include <functional>
#include <mutex>

#include "vmm/devices/device.h"
#include "vmm/devices/interrupt.h"

namespace godwit::devices {

class Power final : public Device {
 public:
  static constexpr std::uint64_t kPorts = 4;

  /// The callbacks run on the vCPU thread that asked, and may be called again should the guest go
  /// on.
  Power(InterruptLine& events, std::function<void()> power_off, std::function<void()> reset);

  /// Presses the power button. Any thread; while quiesced the press waits for resume().
  void press_button();
  /// Sets a bit of the event register, by the same rules.
  void announce(std::uint8_t event);

  std::string_view kind() const override { return "power"; }
  void read(std::uint64_t offset, std::span<std::byte> data) override;
  void write(std::uint64_t offset, std::span<const std::byte> data) override;
  void quiesce() override;
  void resume() override;
  void save(vmm::StateWriter& writer, std::uint32_t instance) const override;
  void restore(vmm::StateReader& reader, std::uint32_t instance) override;

 private:
  InterruptLine& interrupt_;
  std::function<void()> power_off_;
  std::function<void()> reset_;
  mutable std::mutex mutex_;
  std::uint8_t events_ = 0;
  bool quiesced_ = false;
};

/// Port 0x64 of a keyboard controller that has no keyboard: status reads 0 (ready), and pulsing the
/// reset line, the fallback of every x86 kernel, resets. Stateless.
class KeyboardReset final : public Device {
 public:
  explicit KeyboardReset(std::function<void()> reset);

  std::string_view kind() const override { return "keyboard-reset"; }
  void read(std::uint64_t offset, std::span<std::byte> data) override;
  void write(std::uint64_t offset, std::span<const std::byte> data) override;
  void save(vmm::StateWriter& writer, std::uint32_t instance) const override;
  void restore(vmm::StateReader& reader, std::uint32_t instance) override;

 private:
  std::function<void()> reset_;
};

}  // namespace godwit::devices
