// The device side of one split virtqueue (virtio 1.2, 2.7), with indirect descriptors and event
// indices. The transport fills in where the rings are; from start() to stop() exactly one thread,
// the backend's, uses it. Everything read from the rings is read once, checked, and then used:
// whatever makes no sense breaks the queue for good, until the driver resets the device.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "vmm/memory/guest_memory.h"

namespace godwit::devices {

// Feature bits of the ring itself: virtio 1.2, 6.
constexpr std::uint64_t kFeatureIndirect = std::uint64_t{1} << 28;
constexpr std::uint64_t kFeatureEventIndex = std::uint64_t{1} << 29;
constexpr std::uint64_t kFeatureVersion1 = std::uint64_t{1} << 32;

/// A descriptor chain: buffers to read, then buffers to write, in the driver's order; all inside
/// RAM, none empty. Destroy (or clear) `writable` when its bytes have landed and before
/// Virtqueue::push().
struct Chain {
  std::uint16_t head = 0;
  std::vector<std::span<const std::byte>> readable;
  std::vector<memory::GuestWrite> writable;
};

class Virtqueue {
 public:
  enum class Pop { kChain, kEmpty, kBroken };

  /// What the driver says of the queue, and how far the device is. Saved as it is.
  struct State {
    std::uint64_t descriptors = 0;  // guest-physical addresses of the three areas
    std::uint64_t available = 0;
    std::uint64_t used = 0;
    std::uint16_t size = 0;  // entries, a power of two
    std::uint16_t next_available = 0;
    std::uint16_t next_used = 0;
    std::uint16_t signalled_used =
        0;  // next_used when the driver was last considered for an interrupt
    std::uint8_t signalled_valid = 0;  // whether that is meaningful
    std::uint8_t enabled = 0;
    std::uint8_t reserved[6] = {};
  };

  /// `max_size`: 1..32768, a power of two; the memory must outlive the queue.
  Virtqueue(memory::GuestMemory& memory, std::uint16_t max_size);

  std::uint16_t max_size() const { return max_size_; }
  State& state() { return state_; }
  const State& state() const { return state_; }
  /// Takes a saved state; false, and no change, if no queue of this size can be in it.
  bool set_state(const State& state);
  bool enabled() const { return state_.enabled != 0; }

  /// Back to the state after a device reset.
  void reset();

  /// Whether the three areas are aligned and in RAM; to be asked before first use.
  bool placed_well() const;

  /// Which ring features were negotiated; also forgets that the queue was broken.
  void start(std::uint64_t features);

  /// Takes the next available chain. `chain` is overwritten; its vectors are reused.
  Pop pop(Chain& chain);

  /// Puts back the newest `count` chains that were popped and not pushed: pop() gives them again,
  /// here or, after a move, there.
  void rewind(std::uint16_t count) {
    state_.next_available = static_cast<std::uint16_t>(state_.next_available - count);
  }

  /// Returns a chain, saying how many bytes were written to its start. False when broken.
  bool push(std::uint16_t head, std::uint32_t written) { return stage(head, written) && publish(); }
  /// The two halves of push(), for chains that the driver must see all at once, or none: those of a
  /// merged packet (5.1.6.4).
  bool stage(std::uint16_t head, std::uint32_t written);
  bool publish();

  /// Whether the driver wants an interrupt for what was pushed since the last call.
  bool wants_interrupt();

  /// Asks the driver to ring the doorbell for the next chain; true when one is there already, so
  /// that pop() must be tried once more before sleeping.
  bool arm_doorbell();

  bool broken() const { return broken_; }

 private:
  struct Descriptor {
    std::uint64_t address;
    std::uint32_t length;
    std::uint16_t flags;
    std::uint16_t next;
  };

  Pop break_queue();
  bool collect(Chain& chain, std::uint16_t head);
  bool collect_indirect(Chain& chain, const Descriptor& table);
  bool add_buffer(Chain& chain, const Descriptor& descriptor);
  std::optional<std::uint16_t> load_index(memory::GuestAddr address) const;
  bool store_index(memory::GuestAddr address, std::uint16_t value);

  memory::GuestMemory& memory_;
  std::uint16_t max_size_;
  State state_;
  bool indirect_ = false;
  bool event_index_ = false;
  bool broken_ = false;
  std::uint16_t staged_ = 0;  // behind next_used
  unsigned buffers_ = 0;      // descriptors taken for the chain being collected
};

}  // namespace godwit::devices
