// One stream between a program on the host, on a UNIX socket, and one in the guest: credit, what
// waits for the program, and how far opening and closing are. Owned by VirtioVsock and used on its
// thread; it knows no queue.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "vmm/devices/virtio/vsock_packet.h"
#include "vmm/sys/unique_fd.h"

namespace godwit::devices {

class VsockConnection {
 public:
  /// What the guest may send before the program takes it, bytes.
  static constexpr std::uint32_t kBuffer = 64 << 10;

  enum class State {
    kGreeting,   // a program connected, and has to say "CONNECT PORT\n"
    kRequested,  // the guest was asked, or is about to be
    kOpen,
  };

  /// A program connected, or (`guest_port` given) the guest did.
  VsockConnection(sys::UniqueFd socket, std::uint32_t host_port);
  VsockConnection(sys::UniqueFd socket, std::uint32_t host_port, std::uint32_t guest_port);

  std::uint32_t host_port() const { return host_port_; }
  std::uint32_t guest_port() const { return guest_port_; }
  State state() const { return state_; }
  int fd() const { return socket_.get(); }

  /// Reads the greeting; false when it is none, or the program has gone.
  bool greet();
  /// The guest took the request; false when the program has gone.
  bool opened();

  /// What the guest said of its buffer, in any packet.
  void set_credit(const VsockHeader& header);
  /// Bytes the guest has room for now.
  std::uint32_t credit() const;
  void sent(std::uint32_t bytes) { sent_ += bytes; }

  /// Data of the guest; false when it had no room for so much.
  bool take(std::span<const std::byte> data);
  /// Passes on to the program what it takes now; false when it has gone.
  bool flush();
  /// Flags of kVsockShutdown, from the guest.
  void guest_shut(std::uint32_t flags);
  /// Nothing more can pass in either direction.
  bool finished() const;
  /// The program said all it will; sets what the guest is to be told.
  void program_ended(bool entirely);

  /// What poll(2) is to wait for; 0: nothing.
  short events(bool guest_has_buffers) const;
  bool can_read() const {
    return state_ == State::kOpen && !program_done_ && (guest_flags_ & kVsockNoReceive) == 0;
  }

  /// The next packet without data that the guest is due; 0 is none. packet() fills it in.
  std::uint16_t due() const;
  VsockHeader packet(std::uint16_t operation, std::uint64_t guest_cid);
  /// The guest asked how much room there is.
  void want_credit() { want_credit_ = true; }

 private:
  sys::UniqueFd socket_;
  std::uint32_t host_port_;
  std::uint32_t guest_port_ = 0;
  State state_ = State::kGreeting;
  std::string greeting_;

  std::uint32_t guest_buffer_ = 0;     // as the guest says
  std::uint32_t guest_forwarded_ = 0;  // as the guest says
  std::uint32_t sent_ = 0;             // to the guest, modulo 2^32
  std::uint32_t forwarded_ = 0;        // of the guest's data, to the program
  std::uint32_t told_forwarded_ = 0;
  std::vector<std::byte> waiting_;  // for the program; at most kBuffer
  std::uint32_t guest_flags_ = 0;
  bool shut_write_ = false;
  bool program_done_ = false;

  bool want_request_ = false;
  bool want_response_ = false;
  bool want_credit_ = false;
  std::uint32_t want_shutdown_ = 0;
};

}  // namespace godwit::devices
