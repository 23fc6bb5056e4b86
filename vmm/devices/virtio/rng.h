// virtio entropy device (virtio 1.2, 5.4): one queue, filled by getrandom(2). Owned by Machine,
// together with the VirtioPci that shows it; serves on a thread of its own between start() and
// stop().
#pragma once

#include "vmm/devices/virtio/backend.h"
#include "vmm/devices/virtio/worker.h"

namespace godwit::devices {

class VirtioRng final : public VirtioBackend {
 public:
  static constexpr std::uint16_t kQueueSize = 64;
  /// The most that one request gets, bytes; a driver that wants more asks again.
  static constexpr std::size_t kMaxAnswer = 4096;

  /// Throws std::system_error when the thread cannot be made.
  VirtioRng();

  std::string_view kind() const override { return "virtio-rng"; }
  std::uint16_t device_id() const override { return 4; }
  std::uint32_t pci_class() const override { return 0xff0000; }  // none that fits
  std::uint64_t features() const override { return 0; }
  std::span<const std::uint16_t> queue_sizes() const override;
  std::span<const std::byte> config() const override { return {}; }
  void start(VirtioHost& host, std::uint64_t features,
             std::span<const VirtioQueuePort> queues) override;
  void stop() override { worker_.stop(); }

 private:
  void serve();
  bool take_requests();
  static std::uint32_t fill(const Chain& chain);

  // Set by start() before the thread serves; then the thread's alone.
  VirtioHost* host_ = nullptr;
  VirtioQueuePort port_;
  Chain chain_;

  Worker worker_;  // last: it uses all of the above
};

}  // namespace godwit::devices
