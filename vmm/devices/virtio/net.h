// virtio network device (virtio 1.2, 5.1): one pair of queues and a control queue over one NetPort.
// Owned by Machine, together with the VirtioPci that shows it. Packets are passed on one thread of
// its own, and only between start() and stop(): after stop() none leaves in the guest's name.
// Offers checksum and TSO both ways, mergeable buffers, MTU, link status, and announcing.
//
// After a move (start() after restore()) the device tells the network where the guest is now: RARP
// and gratuitous ARP for what it saw the guest use, a few times within a second, and has the
// guest's driver do the same (5.1.6.5.4).
#pragma once

#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <vector>

#include "vmm/devices/virtio/arp.h"
#include "vmm/devices/virtio/backend.h"
#include "vmm/devices/virtio/net_port.h"
#include "vmm/devices/virtio/worker.h"

namespace godwit::devices {

class VirtioNet final : public VirtioBackend {
 public:
  static constexpr std::uint16_t kQueueSize = 256, kControlSize = 64;
  static constexpr std::size_t kMaxSenders = 16;
  static constexpr unsigned kAnnouncements = 5;

  /// `mtu` 0: the driver is told none, and takes 1500. The port must outlive the device. Throws
  /// std::system_error when the thread cannot be made.
  VirtioNet(NetPort& port, const std::array<std::uint8_t, 6>& mac, std::uint16_t mtu);

  std::string_view kind() const override { return "virtio-net"; }
  std::uint16_t device_id() const override { return 1; }
  std::uint32_t pci_class() const override { return 0x020000; }  // Ethernet controller
  std::uint64_t features() const override;
  std::span<const std::uint16_t> queue_sizes() const override;
  std::span<const std::byte> config() const override;
  void start(VirtioHost& host, std::uint64_t features,
             std::span<const VirtioQueuePort> queues) override;
  void stop() override { worker_.stop(); }
  void save(vmm::StateWriter& writer) const override;
  void restore(vmm::StateReader& reader) override;
  void reset() override;

  /// Bytes of packets to and from the guest since the device was made. Any thread.
  std::uint64_t received_bytes() const { return received_.load(std::memory_order_relaxed); }
  std::uint64_t sent_bytes() const { return sent_.load(std::memory_order_relaxed); }

 private:
  using Clock = std::chrono::steady_clock;
  enum Queue : unsigned { kReceive, kTransmit, kControl, kQueues };
  enum class Delivery { kDone, kNoBuffers, kBroken };

  // 5.1.4
  struct Config {
    std::array<std::uint8_t, 6> mac;
    std::uint16_t status;
    std::uint16_t max_virtqueue_pairs;
    std::uint16_t mtu;
  };

  void serve();
  void wait();
  bool receive();
  Delivery deliver();
  void put_back(std::uint16_t count);
  bool transmit();
  void send(const Chain& chain);
  void learn(std::span<const std::byte> frame);
  void control();
  std::uint8_t command(const Chain& chain);
  void announce();
  void send_frame(std::span<const std::byte> frame) const;
  void discard_waiting();
  void break_device();
  void notify(Queue queue);
  bool usable(Queue queue) const { return ports_[queue].queue != nullptr; }

  NetPort& port_;
  mutable Config config_{};
  std::atomic<std::uint16_t> status_;  // goes into config_ when that is read

  // Set by start() before the thread serves; then the thread's alone.
  VirtioHost* host_ = nullptr;
  std::uint64_t features_ = 0;
  std::array<VirtioQueuePort, kQueues> ports_;
  bool broken_ = false;
  bool port_lost_ = false;
  bool arrived_ = false;        // restored, and not started since
  bool copied_ = false;         // restored, with another MAC: it is another guest
  unsigned announcements_ = 0;  // still to be made
  Clock::time_point next_announcement_;
  std::vector<ArpSender> senders_;
  std::size_t next_sender_ = 0;

  std::unique_ptr<std::byte[]> packet_;  // from the port, header first; on its way to the guest
  std::size_t packet_size_ = 0;
  bool no_buffers_ = false;
  std::vector<Chain> chains_;
  Chain chain_;
  std::atomic<std::uint64_t> received_ = 0;
  std::atomic<std::uint64_t> sent_ = 0;

  Worker worker_;  // last: it uses all of the above
};

}  // namespace godwit::devices
