// virtio socket device (virtio 1.2, 5.10): streams between programs in the guest and programs on
// the host, which use UNIX sockets. A program on the host connects to PATH and writes "CONNECT
// PORT\n"; "OK HOST_PORT\n" comes back once a program in the guest took it. A program in the guest
// that connects to (2, PORT) reaches the one that listens at PATH_PORT. Owned by Machine, together
// with the VirtioPci that shows it; serves on a thread of its own between start() and stop().
//
// A move takes no connection along: the guest is told that its transport was reset (5.10.6.7), the
// programs on the old host see their sockets close; listening goes on, on both sides.
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "vmm/devices/virtio/backend.h"
#include "vmm/devices/virtio/vsock_connection.h"
#include "vmm/devices/virtio/vsock_listener.h"
#include "vmm/devices/virtio/vsock_packet.h"
#include "vmm/devices/virtio/worker.h"

namespace godwit::devices {

class VirtioVsock final : public VirtioBackend {
 public:
  static constexpr std::uint16_t kQueueSize = 128;
  static constexpr std::size_t kMaxConnections = 128;
  static constexpr std::size_t kMaxResets = 128;  // waiting to be told to the guest

  /// `cid`: kVsockMinCid..kVsockMaxCid. Throws what VsockListener and Worker throw.
  VirtioVsock(std::uint32_t cid, std::string path);

  std::string_view kind() const override { return "virtio-vsock"; }
  std::uint16_t device_id() const override { return 19; }
  std::uint32_t pci_class() const override { return 0x028000; }  // network, other
  std::uint64_t features() const override { return 0; }
  std::span<const std::uint16_t> queue_sizes() const override;
  std::span<const std::byte> config() const override { return std::as_bytes(std::span(&cid_, 1)); }
  void start(VirtioHost& host, std::uint64_t features,
             std::span<const VirtioQueuePort> queues) override;
  void stop() override { worker_.stop(); }
  void save(vmm::StateWriter& writer) const override { writer.put(cid_); }
  void restore(vmm::StateReader& reader) override;
  void reset() override;

 private:
  enum Queue : unsigned { kReceive, kTransmit, kEvent, kQueues };
  enum class Given { kDone, kNothing, kBroken };
  using Key = std::pair<std::uint32_t, std::uint32_t>;  // the host's port and the guest's
  using Connections = std::map<Key, VsockConnection>;

  void serve();
  void wait();
  void accept_programs();
  void look_at(const Key& key, short events);

  void transmit();
  bool take_packet();
  void handle(const VsockHeader& header);
  void open(const VsockHeader& header);
  void handle_open(Connections::iterator at, const VsockHeader& header);

  void receive();
  bool give_packets();
  Given give_data(VsockConnection& connection);
  bool pop_buffer();
  void put_back();
  bool give(const VsockHeader& header, std::size_t data);
  void announce_reset();

  void drop(Connections::iterator at, bool tell_guest);
  void queue_reset(std::uint32_t host_port, std::uint32_t guest_port);
  std::uint32_t free_port();
  void break_device();
  void notify(Queue queue);

  const std::uint64_t cid_;
  VsockListener listener_;

  // Set by start() before the thread serves; then the thread's alone.
  VirtioHost* host_ = nullptr;
  std::array<VirtioQueuePort, kQueues> ports_;
  bool broken_ = false;
  bool reset_due_ = false;   // the guest has to be told that its connections are gone
  bool no_buffers_ = false;  // the guest has none for us
  Key next_{};               // whose turn it is to send to the guest
  Connections connections_;  // those that know the guest's port, or have 0 for it
  std::deque<Key> resets_;
  std::uint32_t next_port_ = 1U << 30;
  Chain chain_;
  std::vector<std::byte> data_;  // of the packet being handled

  Worker worker_;  // last: it uses all of the above
};

}  // namespace godwit::devices
