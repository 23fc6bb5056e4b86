#include "vmm/devices/virtio/queue.h"

#include <algorithm>
#include <atomic>
#include <bit>
#include <iterator>
#include <type_traits>
#include <utility>

namespace godwit::devices {
namespace {

// virtio 1.2, 2.7.5-2.7.8
constexpr std::uint16_t kNext = 1, kWrite = 2, kIndirect = 4;
constexpr std::uint16_t kNoInterrupt = 1;
constexpr std::uint64_t kDescriptorSize = 16, kUsedSize = 8;
constexpr std::uint64_t kRingHeader = 4;  // flags and idx, before the entries of both rings

struct UsedElement {
  std::uint32_t id;
  std::uint32_t length;
};

}  // namespace

Virtqueue::Virtqueue(memory::GuestMemory& memory, std::uint16_t max_size)
    : memory_(memory), max_size_(max_size) {
  static_assert(std::has_unique_object_representations_v<State>);
  reset();
}

void Virtqueue::reset() {
  state_ = State{};
  state_.size = max_size_;
  broken_ = false;
  staged_ = 0;
}

bool Virtqueue::set_state(const State& state) {
  if (!std::has_single_bit(state.size) || state.size > max_size_ || state.enabled > 1 ||
      state.signalled_valid > 1) {
    return false;
  }
  state_ = state;
  std::fill(std::begin(state_.reserved), std::end(state_.reserved), std::uint8_t{0});
  return true;
}

bool Virtqueue::placed_well() const {
  const std::uint64_t size = state_.size;
  if (!std::has_single_bit(size) || size > max_size_) return false;
  if (state_.descriptors % 16 != 0 || state_.available % 2 != 0 || state_.used % 4 != 0)
    return false;
  // Both rings end with an event index, whether or not it is used.
  return memory_.readable(state_.descriptors, kDescriptorSize * size) &&
         memory_.readable(state_.available, kRingHeader + 2 * size + 2) &&
         memory_.readable(state_.used, kRingHeader + kUsedSize * size + 2);
}

void Virtqueue::start(std::uint64_t features) {
  indirect_ = (features & kFeatureIndirect) != 0;
  event_index_ = (features & kFeatureEventIndex) != 0;
  broken_ = !placed_well();
  staged_ = 0;
}

Virtqueue::Pop Virtqueue::break_queue() {
  broken_ = true;
  return Pop::kBroken;
}

Virtqueue::Pop Virtqueue::pop(Chain& chain) {
  chain.readable.clear();
  chain.writable.clear();
  if (broken_) return Pop::kBroken;
  const auto available = load_index(state_.available + 2);
  if (!available) return break_queue();
  const auto waiting = static_cast<std::uint16_t>(*available - state_.next_available);
  if (waiting == 0) return Pop::kEmpty;
  if (waiting > state_.size) return break_queue();
  const std::uint64_t slot = state_.next_available & (state_.size - 1U);
  const auto head = memory_.load<std::uint16_t>(state_.available + kRingHeader + 2 * slot);
  if (!head || !collect(chain, *head)) return break_queue();
  chain.head = *head;
  ++state_.next_available;
  return Pop::kChain;
}

// A chain is at most as long as the queue (2.7.5.2), which also ends every loop.
bool Virtqueue::collect(Chain& chain, std::uint16_t head) {
  buffers_ = 0;
  for (std::uint16_t index = head;;) {
    if (index >= state_.size) return false;
    const auto descriptor = memory_.load<Descriptor>(state_.descriptors + kDescriptorSize * index);
    if (!descriptor) return false;
    if ((descriptor->flags & kIndirect) != 0) {
      // 2.7.5.3.1: it ends the chain.
      return (descriptor->flags & kNext) == 0 && collect_indirect(chain, *descriptor);
    }
    if (!add_buffer(chain, *descriptor)) return false;
    if ((descriptor->flags & kNext) == 0) return true;
    index = descriptor->next;
  }
}

bool Virtqueue::collect_indirect(Chain& chain, const Descriptor& table) {
  if (!indirect_ || table.length == 0 || table.length % kDescriptorSize != 0) return false;
  const std::uint64_t count = table.length / kDescriptorSize;
  if (!memory_.readable(table.address, table.length)) return false;
  for (std::uint64_t index = 0;;) {
    if (index >= count) return false;
    const auto descriptor = memory_.load<Descriptor>(table.address + kDescriptorSize * index);
    if (!descriptor || (descriptor->flags & kIndirect) != 0) return false;
    if (!add_buffer(chain, *descriptor)) return false;
    if ((descriptor->flags & kNext) == 0) return true;
    index = descriptor->next;
  }
}

bool Virtqueue::add_buffer(Chain& chain, const Descriptor& descriptor) {
  if (++buffers_ > state_.size) return false;
  if ((descriptor.flags & kWrite) != 0) {
    auto buffer = memory_.writable(descriptor.address, descriptor.length);
    if (!buffer) return false;
    if (descriptor.length != 0) chain.writable.push_back(std::move(*buffer));
    return true;
  }
  if (!chain.writable.empty()) return false;  // 2.7.4.2: what is read comes first
  const auto buffer = memory_.readable(descriptor.address, descriptor.length);
  if (!buffer) return false;
  if (descriptor.length != 0) chain.readable.push_back(*buffer);
  return true;
}

bool Virtqueue::stage(std::uint16_t head, std::uint32_t written) {
  if (broken_) return false;
  const std::uint64_t slot = (state_.next_used + std::uint64_t{staged_}) & (state_.size - 1U);
  const UsedElement element = {head, written};
  if (!memory_.store(state_.used + kRingHeader + kUsedSize * slot, element)) {
    break_queue();
    return false;
  }
  ++staged_;
  return true;
}

bool Virtqueue::publish() {
  const auto next = static_cast<std::uint16_t>(state_.next_used + std::exchange(staged_, 0));
  if (broken_ || !store_index(state_.used + 2, next)) {
    break_queue();
    return false;
  }
  state_.next_used = next;
  return true;
}

bool Virtqueue::wants_interrupt() {
  if (broken_) return false;
  const std::uint16_t before = state_.signalled_used;
  const bool before_valid = state_.signalled_valid != 0;
  const std::uint16_t now = state_.next_used;
  if (before_valid && before == now) return false;
  state_.signalled_used = now;
  state_.signalled_valid = 1;
  if (!event_index_) {
    const auto flags = load_index(state_.available);
    return flags && (*flags & kNoInterrupt) == 0;
  }
  // 2.7.10: used_event lies behind the available ring; an interrupt is due when [before, now)
  // passes it.
  const auto event = load_index(state_.available + kRingHeader + 2 * std::uint64_t{state_.size});
  if (!event) return false;
  if (!before_valid) return true;
  return static_cast<std::uint16_t>(now - *event - 1) < static_cast<std::uint16_t>(now - before);
}

bool Virtqueue::arm_doorbell() {
  if (broken_) return false;
  // 2.7.10: avail_event lies behind the used ring.
  if (event_index_ &&
      !store_index(state_.used + kRingHeader + kUsedSize * std::uint64_t{state_.size},
                   state_.next_available)) {
    break_queue();
    return false;
  }
  const auto available = load_index(state_.available + 2);
  return available && *available != state_.next_available;
}

// Indices are shared with the driver's running vCPUs. Sequentially consistent, because "store mine,
// then look at yours" is how either side decides that the other need not be told
// (2.7.13.4.1, 2.7.14).
std::optional<std::uint16_t> Virtqueue::load_index(memory::GuestAddr address) const {
  const auto bytes = memory_.readable(address, sizeof(std::uint16_t));
  if (!bytes || address % 2 != 0) return std::nullopt;
  auto* value = const_cast<std::byte*>(bytes->data());
  return std::atomic_ref(*reinterpret_cast<std::uint16_t*>(value)).load();
}

bool Virtqueue::store_index(memory::GuestAddr address, std::uint16_t value) {
  auto bytes = memory_.writable(address, sizeof(std::uint16_t));
  if (!bytes || address % 2 != 0) return false;
  std::atomic_ref(*reinterpret_cast<std::uint16_t*>(bytes->bytes().data())).store(value);
  return true;
}

}  // namespace godwit::devices
