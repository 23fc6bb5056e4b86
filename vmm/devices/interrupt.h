// Interrupts as a device sees them. Machine implements these with KVM (vmm/interrupts.h); tests
// with a counter. trigger() may be called from any thread.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>

namespace godwit::devices {

/// An edge-triggered line of the I/O APIC.
class InterruptLine {
 public:
  virtual ~InterruptLine() = default;
  virtual void trigger() = 0;
};

/// What an MSI writes: PCI 3.0, 6.8.1.
struct MsiMessage {
  std::uint64_t address = 0;
  std::uint32_t data = 0;
  bool operator==(const MsiMessage&) const = default;
};

/// One MSI-X vector of one function.
class MsiVector {
 public:
  virtual ~MsiVector() = default;
  /// Routes the vector; the device calls it only for unmasked table entries. May throw
  /// std::system_error when the host runs out of routes.
  virtual void route(const MsiMessage& message) = 0;
  /// Sends the message of the last route(), of which there must have been one.
  virtual void trigger() = 0;
};

/// Hands out vectors; the returned object must not outlive the factory.
class MsiVectorFactory {
 public:
  virtual ~MsiVectorFactory() = default;
  virtual std::unique_ptr<MsiVector> create() = 0;
};

/// Registers eventfds that KVM signals, instead of leaving to us, when the guest writes a doorbell.
class DoorbellRegistry {
 public:
  virtual ~DoorbellRegistry() = default;
  /// A guest write of any value and 2 bytes at guest-physical `address` signals `event_fd`. Undone
  /// by remove() with the same arguments.
  virtual void add(std::uint64_t address, int event_fd) = 0;
  virtual void remove(std::uint64_t address, int event_fd) = 0;
};

}  // namespace godwit::devices
