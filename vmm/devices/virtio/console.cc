#include "vmm/devices/virtio/console.h"

#include <algorithm>
#include <cstring>
#include <utility>

namespace godwit::devices {
namespace {

constexpr std::array<std::uint16_t, 2> kQueueSizes = {VirtioConsole::kQueueSize,
                                                      VirtioConsole::kQueueSize};

}  // namespace

VirtioConsole::VirtioConsole(Sink output)
    : output_(std::move(output)),
      worker_(
          "virtio-console", [this] { serve(); }, [this] { host_->needs_reset(); }) {}

std::span<const std::uint16_t> VirtioConsole::queue_sizes() const { return kQueueSizes; }

std::size_t VirtioConsole::input(std::span<const std::byte> bytes) {
  std::size_t taken = 0;
  {
    const std::lock_guard lock(mutex_);
    if (!open_) return 0;
    taken = std::min(bytes.size(), kMaxWaiting - waiting_.size());
    const auto first = bytes.first(taken);
    waiting_.insert(waiting_.end(), first.begin(), first.end());
  }
  if (taken != 0) worker_.wake();
  return taken;
}

void VirtioConsole::start(VirtioHost& host, std::uint64_t /*features*/,
                          std::span<const VirtioQueuePort> queues) {
  stop();
  if (queues.size() < kQueues) return;
  for (unsigned i = 0; i < kQueues; ++i) {
    if (!queues[i].queue->enabled()) return;
    ports_[i] = queues[i];
  }
  host_ = &host;
  {
    const std::lock_guard lock(mutex_);
    open_ = true;
  }
  worker_.start();
}

void VirtioConsole::stop() {
  {
    const std::lock_guard lock(mutex_);
    open_ = false;
  }
  worker_.stop();
}

void VirtioConsole::save(vmm::StateWriter& writer) const {
  const std::lock_guard lock(mutex_);
  writer.put(printed_);
  writer.put_array(std::span(waiting_));
}

void VirtioConsole::restore(vmm::StateReader& reader) {
  const std::lock_guard lock(mutex_);
  printed_ = reader.get<std::uint64_t>();
  waiting_ = reader.get_array<std::byte>(kMaxWaiting);
}

void VirtioConsole::reset() {
  const std::lock_guard lock(mutex_);
  printed_ = 0;
  waiting_.clear();
}

// -- the I/O thread

void VirtioConsole::serve() {
  bool broken = false;
  std::array<const sys::EventFd*, kQueues> doorbells{};
  for (unsigned i = 0; i < kQueues; ++i) doorbells[i] = ports_[i].doorbell;
  while (!worker_.stopping()) {
    if (!broken && (!transmit() || !receive())) {
      broken = true;
      host_->needs_reset();
    }
    worker_.wait(doorbells);
  }
}

// False when the driver broke the rules.
bool VirtioConsole::transmit() {
  Virtqueue& queue = *ports_[kTransmit].queue;
  do {
    for (;;) {
      if (worker_.stopping()) return true;
      const auto result = queue.pop(chain_);
      if (result == Virtqueue::Pop::kEmpty) break;
      if (result == Virtqueue::Pop::kBroken || !chain_.writable.empty()) return false;
      if (print(chain_) == Printed::kPart) {
        queue.rewind(1);
        return true;
      }
      printed_ = 0;
      if (!queue.push(chain_.head, 0)) return false;
      if (queue.wants_interrupt()) host_->interrupt_queue(kTransmit);
    }
  } while (queue.arm_doorbell());
  return !queue.broken();
}

// A chain may be as long as RAM, and a pause must not wait for it: the rest is printed after it,
// here or where the guest went.
VirtioConsole::Printed VirtioConsole::print(const Chain& chain) {
  std::uint64_t skip = printed_;
  for (std::span<const std::byte> buffer : chain.readable) {
    const auto skipped = static_cast<std::size_t>(std::min<std::uint64_t>(skip, buffer.size()));
    buffer = buffer.subspan(skipped);
    skip -= skipped;
    while (!buffer.empty()) {
      if (worker_.stopping()) return Printed::kPart;
      const auto piece = buffer.first(std::min(buffer.size(), kPiece));
      if (output_) output_(piece);
      printed_ += piece.size();
      buffer = buffer.subspan(piece.size());
    }
  }
  return Printed::kAll;
}

// False when the driver broke the rules. Nothing is popped before there is something to say.
bool VirtioConsole::receive() {
  Virtqueue& queue = *ports_[kReceive].queue;
  for (;;) {
    if (worker_.stopping()) return true;
    std::uint32_t written = 0;
    {
      const std::lock_guard lock(mutex_);
      if (waiting_.empty()) return true;
      auto result = queue.pop(chain_);
      // Asked for a doorbell only now: a guest that offers buffers need not tell before.
      if (result == Virtqueue::Pop::kEmpty && queue.arm_doorbell()) result = queue.pop(chain_);
      if (result == Virtqueue::Pop::kEmpty) return !queue.broken();
      if (result == Virtqueue::Pop::kBroken || !chain_.readable.empty()) return false;
      for (const auto& buffer : chain_.writable) {
        const auto to = buffer.bytes();
        const std::size_t size = std::min(to.size(), waiting_.size() - written);
        std::memcpy(to.data(), waiting_.data() + written, size);
        written += static_cast<std::uint32_t>(size);
      }
      waiting_.erase(waiting_.begin(), waiting_.begin() + written);
    }
    chain_.writable.clear();
    if (!queue.push(chain_.head, written)) return false;
    if (queue.wants_interrupt()) host_->interrupt_queue(kReceive);
  }
}

}  // namespace godwit::devices
