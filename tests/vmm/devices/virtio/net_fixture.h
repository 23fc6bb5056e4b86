// A network card on a socket, its wiring, and a driver for it. Guest RAM (16 MiB): rings at 1, 2
// and 3 MiB, receive buffers from 4 MiB, what is sent at 8 MiB, commands at 9 MiB.
#pragma once

#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "tests/vmm/devices/virtio/driver.h"
#include "vmm/devices/virtio/net.h"

namespace godwit::devices {

constexpr std::uint64_t kNetBar = 0xc002'0000;
constexpr std::array<std::uint8_t, 6> kMac = {0x02, 0x11, 0x22, 0x33, 0x44, 0x55};

/// Datagrams keep packets apart, as a tap does.
class SocketPort final : public NetPort {
 public:
  SocketPort() {
    std::array<int, 2> ends{};
    EXPECT_EQ(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends.data()),
              0);
    near_.reset(ends[0]);
    far.reset(ends[1]);
    const int size = 1 << 20;
    for (const int end : ends) ::setsockopt(end, SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
  }
  int fd() const override { return near_.get(); }
  void set_offloads(const NetOffloads& offloads) override {
    const std::lock_guard lock(mutex_);
    offloads_ = offloads;
  }
  NetOffloads offloads() {
    const std::lock_guard lock(mutex_);
    return offloads_;
  }
  void hang_up() { far.reset(); }

  sys::UniqueFd far;

 private:
  sys::UniqueFd near_;
  std::mutex mutex_;
  NetOffloads offloads_;
};

inline std::vector<char> frame_of(std::size_t size, char value) {
  return std::vector<char>(size, value);
}

inline std::vector<char> arp_of(const ArpSender& sender) {
  const auto frame = arp_announcement(sender);
  const auto* at = reinterpret_cast<const char*>(frame.data());
  return {at, at + kArpFrameSize};
}

/// Everything one side of a move has.
struct NetMachine {
  explicit NetMachine(std::uint16_t mtu = 1450, const std::array<std::uint8_t, 6>& mac = kMac)
      : net(port, mac, mtu) {}

  /// The next packet that leaves, header included; empty after `milliseconds`.
  std::vector<char> far_end(int milliseconds = 5000) {
    pollfd poll{port.far.get(), POLLIN, 0};
    if (::poll(&poll, 1, milliseconds) != 1) return {};
    std::vector<char> packet(100000);
    const ssize_t size = ::read(port.far.get(), packet.data(), packet.size());
    packet.resize(size > 0 ? static_cast<std::size_t>(size) : 0);
    return packet;
  }
  bool announcement() { return far_end().size() == 72; }
  void drain() {
    while (!far_end(0).empty()) {
    }
  }
  void send_to_guest(const std::vector<char>& frame) {
    std::vector<char> packet(12, '\0');
    packet.insert(packet.end(), frame.begin(), frame.end());
    ASSERT_EQ(::write(port.far.get(), packet.data(), packet.size()),
              static_cast<ssize_t>(packet.size()));
  }

  memory::GuestMemory memory{16 << 20};
  FakeVectors vectors;
  FakeDoorbells doorbells;
  SocketPort port;
  VirtioNet net;
  VirtioPci device{net, memory, vectors, doorbells, kNetBar};
  Registers registers{device};
};

/// RAM and state to the other machine, which then runs.
inline void move_to(NetMachine& to, NetMachine& from) {
  to.device.quiesce();
  const auto all = memory::PageRange{0, to.memory.pages()};
  const auto bytes = from.memory.page_bytes(all);
  std::copy(bytes.begin(), bytes.end(), to.memory.page_bytes(all).begin());
  restore_from(to.device, save_of(from.device));
  to.device.resume();
}

class NetDriver {
 public:
  static constexpr std::uint64_t kBuffers = 4 << 20, kSend = 8 << 20, kCommand = 9 << 20;

  explicit NetDriver(NetMachine& machine)
      : machine_(&machine),
        receive(machine.memory, 1 << 20, 256),
        transmit(machine.memory, 2 << 20, 256),
        control(machine.memory, 3 << 20, 64) {}

  std::uint8_t bring_up(std::uint64_t features = ~0ULL) {
    reset();
    auto& registers = machine_->registers;
    registers.enable_msix(4);
    registers.set_status(1);
    registers.set_status(3);
    registers.accept(registers.features() & features & ~(1ULL << 29));
    registers.set_status(11);
    registers.set<std::uint16_t>(16, 3);  // configuration vector
    std::uint16_t index = 0;
    for (const DriverRing* ring : {&receive, &transmit, &control}) {
      registers.set<std::uint16_t>(22, index);
      registers.set<std::uint16_t>(24, ring->size());
      registers.set<std::uint16_t>(26, index++);
      registers.set<std::uint64_t>(32, ring->descriptors());
      registers.set<std::uint64_t>(40, ring->available());
      registers.set<std::uint64_t>(48, ring->used());
      registers.set<std::uint16_t>(28, 1);
    }
    registers.set_status(15);
    return registers.status();
  }

  /// After it the rings are this driver's again, and empty.
  void reset() {
    machine_->registers.set_status(0);
    for (DriverRing* ring : {&receive, &transmit, &control}) {
      const std::vector<std::byte> zeroes(ring->end() - ring->descriptors());
      machine_->memory.write(ring->descriptors(), zeroes);
      ring->set_available_index(0);
    }
    given_ = 0;
    taken_ = 0;
  }

  /// Goes on where the driver at the source of a move was.
  void continue_from(const NetDriver& other) {
    receive.set_available_index(other.receive.next_available());
    transmit.set_available_index(other.transmit.next_available());
    control.set_available_index(other.control.next_available());
    given_ = other.given_;
    taken_ = other.taken_;
  }

  template <typename T>
  T config(std::uint64_t offset) {
    return read_as<T>(machine_->device, machine_->registers.config + offset);
  }

  void kick(unsigned queue) {
    auto& registers = machine_->registers;
    write_as<std::uint16_t>(machine_->device, registers.notify + registers.multiplier * queue,
                            static_cast<std::uint16_t>(queue));
  }
  void kick_all() {
    for (unsigned queue = 0; queue < 3; ++queue) kick(queue);
  }

  void give_buffers(unsigned count, std::uint32_t size) {
    for (; count > 0; --count, ++given_) {
      const auto index = static_cast<std::uint16_t>(given_ % 256);
      receive.set_chain(index, {{kBuffers + 4096ULL * index, size, true}});
      receive.offer(index);
    }
    kick(0);
  }

  /// What came, a buffer each, once something has.
  std::vector<std::vector<char>> received() {
    std::vector<std::vector<char>> parts;
    if (!eventually([&] { return receive.used_index() != taken_; })) return parts;
    for (; taken_ != receive.used_index(); ++taken_) {
      std::vector<char> bytes(receive.used_length(taken_));
      machine_->memory.read(kBuffers + 4096ULL * receive.used_id(taken_),
                            std::as_writable_bytes(std::span(bytes)));
      parts.push_back(std::move(bytes));
    }
    return parts;
  }

  void send(const std::vector<char>& frame) {
    const std::vector<std::byte> header(12);
    machine_->memory.write(kSend, header);
    machine_->memory.write(kSend + 4096, std::as_bytes(std::span(frame)));
    offer(transmit, 1, {{kSend, 12}, {kSend + 4096, static_cast<std::uint32_t>(frame.size())}});
  }
  void send_raw(std::uint32_t size) { offer(transmit, 1, {{kSend, size}}); }

  std::uint8_t command(std::uint8_t command_class, std::uint8_t command) {
    machine_->memory.store(kCommand, command_class);
    machine_->memory.store(kCommand + 1, command);
    machine_->memory.store(kCommand + 16, std::uint8_t{0xee});
    offer(control, 2, {{kCommand, 2}, {kCommand + 16, 1, true}});
    return *machine_->memory.load<std::uint8_t>(kCommand + 16);
  }

  /// A chain of the wrong direction, an empty one, one outside RAM.
  void offer_bad(int kind) {
    const std::array<std::vector<Buffer>, 5> chains = {{{{kBuffers, 100}},
                                                        {{kBuffers, 0, true}},
                                                        {{kSend, 100, true}},
                                                        {{~0ULL - 50, 100}},
                                                        {{kCommand, 2}}}};
    const std::array<unsigned, 5> queues = {0, 0, 1, 1, 2};
    const auto index = static_cast<std::size_t>(kind);
    DriverRing& ring = queues[index] == 0 ? receive : queues[index] == 1 ? transmit : control;
    ring.set_chain(0, chains[index]);
    ring.offer(0);
    kick(queues[index]);
  }

  void scramble(std::mt19937_64& random) {
    for (DriverRing* ring : {&receive, &transmit, &control}) {
      for (std::uint16_t i = 0; i < ring->size(); ++i) {
        const bool wild = random() % 20 == 0;
        ring->set_descriptor(i, wild ? random() : random() % (16 << 20),
                             static_cast<std::uint32_t>(wild ? random() : random() % 4096),
                             static_cast<std::uint16_t>(random() % 4),
                             static_cast<std::uint16_t>(random() % 10 == 0 ? random() : i + 1));
        machine_->memory.store(ring->available() + 4 + 2 * i,
                               static_cast<std::uint16_t>(random() % ring->size()));
      }
      ring->set_available_index(static_cast<std::uint16_t>(random() % 64));
    }
  }

 private:
  void offer(DriverRing& ring, unsigned queue, const std::vector<Buffer>& buffers) {
    const auto before = ring.used_index();
    ring.set_chain(0, buffers);
    ring.offer(0);
    kick(queue);
    // A device that is quiesced, or broken, never answers: then the caller looks for itself.
    const auto end = std::chrono::steady_clock::now() + std::chrono::milliseconds(300);
    while (ring.used_index() == before && std::chrono::steady_clock::now() < end) {
      std::this_thread::sleep_for(std::chrono::microseconds(50));
    }
  }

  NetMachine* machine_;
  unsigned given_ = 0;
  std::uint16_t taken_ = 0;

 public:
  DriverRing receive, transmit, control;
};

}  // namespace godwit::devices
