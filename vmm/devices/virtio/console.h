// virtio console (virtio 1.2, 5.3) with one port: the guest's hvc0, a second console that takes
// lines where the serial one takes bytes, each an exit. Owned by Machine, together with the
// VirtioPci that shows it; serves on a thread of its own between start() and stop(). input() comes
// from any thread.
#pragma once

#include <array>
#include <cstddef>
#include <functional>
#include <mutex>
#include <span>
#include <vector>

#include "vmm/devices/virtio/backend.h"
#include "vmm/devices/virtio/worker.h"

namespace godwit::devices {

class VirtioConsole final : public VirtioBackend {
 public:
  /// Takes what the guest prints; called from the device's thread, which it holds up while it
  /// blocks. May be empty.
  using Sink = std::function<void(std::span<const std::byte>)>;

  static constexpr std::uint16_t kQueueSize = 128;
  static constexpr std::size_t kMaxWaiting = 4096;  // bytes typed that the guest has not taken
  /// What the sink gets at once, at most: so long may a pause be held up.
  static constexpr std::size_t kPiece = 4096;

  /// Throws std::system_error when the thread cannot be made.
  explicit VirtioConsole(Sink output);

  /// Bytes for the guest to read. Returns how many were taken: fewer than given when as many wait
  /// as may, none while the device is stopped (they would be lost if the guest is just moving
  /// away).
  std::size_t input(std::span<const std::byte> bytes);

  std::string_view kind() const override { return "virtio-console"; }
  std::uint16_t device_id() const override { return 3; }
  std::uint32_t pci_class() const override { return 0x078000; }  // communication, other
  std::uint64_t features() const override { return 0; }
  std::span<const std::uint16_t> queue_sizes() const override;
  std::span<const std::byte> config() const override { return {}; }
  void start(VirtioHost& host, std::uint64_t features,
             std::span<const VirtioQueuePort> queues) override;
  void stop() override;
  void save(vmm::StateWriter& writer) const override;
  void restore(vmm::StateReader& reader) override;
  void reset() override;

 private:
  enum Queue : unsigned { kReceive, kTransmit, kQueues };  // 5.3.2
  enum class Printed { kAll, kPart };

  void serve();
  bool transmit();
  Printed print(const Chain& chain);
  bool receive();

  const Sink output_;
  mutable std::mutex mutex_;
  std::vector<std::byte> waiting_;  // typed, not taken by the guest yet
  bool open_ = false;               // between start() and stop()

  // Set by start() before the thread serves; then the thread's alone.
  VirtioHost* host_ = nullptr;
  std::array<VirtioQueuePort, kQueues> ports_;
  std::uint64_t printed_ = 0;  // bytes of the next chain that are out already
  Chain chain_;

  Worker worker_;  // last: it uses all of the above
};

}  // namespace godwit::devices
