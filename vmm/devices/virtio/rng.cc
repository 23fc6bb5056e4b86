#include "vmm/devices/virtio/rng.h"

#include <sys/random.h>

#include <algorithm>
#include <array>

#include "vmm/sys/error.h"

namespace godwit::devices {
namespace {

constexpr std::array<std::uint16_t, 1> kQueueSizes = {VirtioRng::kQueueSize};

}  // namespace

VirtioRng::VirtioRng()
    : worker_(
          "virtio-rng", [this] { serve(); }, [this] { host_->needs_reset(); }) {}

std::span<const std::uint16_t> VirtioRng::queue_sizes() const { return kQueueSizes; }

void VirtioRng::start(VirtioHost& host, std::uint64_t /*features*/,
                      std::span<const VirtioQueuePort> queues) {
  worker_.stop();
  if (queues.empty() || !queues[0].queue->enabled()) return;
  host_ = &host;
  port_ = queues[0];
  worker_.start();
}

void VirtioRng::serve() {
  bool broken = false;
  const std::array<const sys::EventFd*, 1> doorbells = {port_.doorbell};
  while (!worker_.stopping()) {
    if (!broken && !take_requests()) {
      broken = true;
      host_->needs_reset();
    }
    worker_.wait(doorbells);
  }
}

// False when the driver broke the rules.
bool VirtioRng::take_requests() {
  Virtqueue& queue = *port_.queue;
  do {
    for (;;) {
      if (worker_.stopping()) return true;
      const auto result = queue.pop(chain_);
      if (result == Virtqueue::Pop::kEmpty) break;
      if (result == Virtqueue::Pop::kBroken || !chain_.readable.empty()) return false;
      const std::uint32_t written = fill(chain_);
      chain_.writable.clear();
      if (!queue.push(chain_.head, written)) return false;
      if (queue.wants_interrupt()) host_->interrupt_queue(0);
    }
  } while (queue.arm_doorbell());
  return !queue.broken();
}

std::uint32_t VirtioRng::fill(const Chain& chain) {
  std::size_t left = kMaxAnswer;
  for (const auto& buffer : chain.writable) {
    auto bytes = buffer.bytes().first(std::min(left, buffer.bytes().size()));
    left -= bytes.size();
    while (!bytes.empty()) {
      const auto got = sys::check(::getrandom(bytes.data(), bytes.size(), 0), "getrandom");
      bytes = bytes.subspan(static_cast<std::size_t>(got));
    }
  }
  return static_cast<std::uint32_t>(kMaxAnswer - left);
}

}  // namespace godwit::devices
