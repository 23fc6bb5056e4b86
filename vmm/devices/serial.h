// A 16550A UART: the guest's console. Owned by Machine, attached to eight ports. read() and write()
// come from vCPU threads, input() from any; one mutex guards it all. Transmission takes no time: a
// byte written to THR is handed to the sink before the write returns, so no output is ever lost or
// reordered. The divisor is stored and means nothing.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <mutex>
#include <span>

#include "vmm/devices/device.h"
#include "vmm/devices/interrupt.h"

namespace godwit::devices {

class Serial final : public Device {
 public:
  /// Takes what the guest transmits; called from vCPU threads with the device locked, so it must
  /// not call back into it.
  using Sink = std::function<void(std::span<const std::byte>)>;

  static constexpr std::uint64_t kPorts = 8;
  static constexpr std::size_t kFifoSize = 16;
  static constexpr std::size_t kMaxWaiting = 4096;  // bytes typed that the FIFO has no room for yet

  /// `interrupt` must outlive the device.
  Serial(InterruptLine& interrupt, Sink output);

  /// Bytes for the guest to receive. Returns how many were taken: fewer than given when the queue
  /// is full, none while the device is quiesced (they would be lost if the guest is just moving
  /// away). Any thread.
  std::size_t input(std::span<const std::byte> bytes);

  std::string_view kind() const override { return "serial"; }
  void read(std::uint64_t offset, std::span<std::byte> data) override;
  void write(std::uint64_t offset, std::span<const std::byte> data) override;
  void quiesce() override;
  void resume() override;
  void save(vmm::StateWriter& writer, std::uint32_t instance) const override;
  void restore(vmm::StateReader& reader, std::uint32_t instance) override;

 private:
  // What the guest can see, but for received bytes. Names as in the PC16550D data sheet.
  struct Registers {
    std::uint8_t ier = 0;
    std::uint8_t fcr = 0;  // FIFO enable and receive trigger level
    std::uint8_t lcr = 0;
    std::uint8_t mcr = 0;
    std::uint8_t scr = 0;
    std::uint8_t dll = 12;  // 9600 baud
    std::uint8_t dlm = 0;
    std::uint8_t overrun = 0;    // LSR bit 1, until LSR is read
    std::uint8_t msr_delta = 0;  // MSR bits 0-3, until MSR is read
    std::uint8_t thr_empty = 0;  // the THR-empty interrupt is pending
  };

  std::uint8_t read_register(std::uint64_t offset);
  void write_register(std::uint64_t offset, std::uint8_t value);
  std::uint8_t receive();
  void transmit(std::uint8_t value);
  void write_fcr(std::uint8_t value);
  void write_mcr(std::uint8_t value);
  std::uint8_t lsr() const;
  std::uint8_t modem_lines() const;  // MSR bits 4-7
  std::uint8_t iir() const;          // without the FIFO bits
  bool fifos_enabled() const;
  bool loopback() const;
  bool dlab() const;
  std::size_t trigger_level() const;
  void refill();
  void update_line();

  InterruptLine& interrupt_;
  Sink output_;
  mutable std::mutex mutex_;
  Registers registers_;
  std::deque<std::uint8_t> fifo_;     // receive FIFO: what the guest sees
  std::deque<std::uint8_t> waiting_;  // typed, not yet in the FIFO
  bool line_ = false;                 // level of the interrupt output; its rising edge triggers
  bool quiesced_ = false;
  bool restored_ = false;
};

}  // namespace godwit::devices
