// The TCP connection of a move: framed, under TLS where that is wanted, with one interrupt and one
// deadline over all that blocks. Used by one thread, but for interrupt(). Everything throws
// ChannelError when the peer is gone, the link is cut, the deadline passes, the peer breaks the
// framing or TLS, or interrupt() was called.
#pragma once

#include <chrono>
#include <cstddef>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "migration/channel.h"
#include "migration/protocol.h"
#include "migration/tls/stream.h"
#include "migration/tls/tls.h"
#include "vmm/sys/event_fd.h"
#include "vmm/sys/unique_fd.h"

struct iovec;

namespace godwit::migration {

/// How the end that connects secures its connections; without a context it does not.
struct Security {
  std::shared_ptr<const tls::Context> context;
  std::string name;  // what the destination's certificate must say; empty: any that the CA signed
};

class Wire {
 public:
  using Clock = std::chrono::steady_clock;
  static constexpr std::chrono::milliseconds kPatience{3000};  // at first; see set_patience()

  /// Takes a connected TCP (or, in tests, UNIX stream) socket; under TLS already with `stream`.
  explicit Wire(sys::UniqueFd socket, std::unique_ptr<tls::Stream> stream = nullptr);
  /// Connects to HOST:PORT (IPv6 in brackets); throws ChannelError with the reason. `stop`: given
  /// up as soon as it is readable.
  static Wire connect(const std::string& host_port, std::chrono::milliseconds timeout,
                      int stop = -1);
  Wire(Wire&&) = default;

  int fd() const { return socket_.get(); }
  int interrupt_fd() const { return interrupt_.fd(); }

  /// Of the end that has connected: TLS, where it goes by that, and greet(), within `timeout`.
  void meet(const Security& security, std::chrono::milliseconds timeout);
  /// Of the end that has accepted. False, and nothing read, when the peer does not begin with TLS.
  bool accept_tls(const tls::Context& context);
  /// Exchanges preambles; throws naming what the peer is not.
  void greet();
  /// Who encrypts: "kernel", "user" (this process), or "none".
  const char* tls() const;

  /// Everything that blocks longer than this fails; nullopt: never.
  void set_deadline(std::optional<Clock::time_point> deadline) { deadline_ = deadline; }
  std::optional<Clock::time_point> deadline() const { return deadline_; }
  /// How long bytes may stay unacknowledged before the link counts as cut (TCP_USER_TIMEOUT).
  void set_patience(std::chrono::milliseconds patience);
  std::chrono::milliseconds patience() const { return patience_; }

  void send(FrameHeader header, std::span<const std::byte> payload = {});
  void send_json(MessageKind kind, const std::string& text);
  /// The same with a payload in pieces; `parts` is consumed. Its first element is left for the
  /// header. `guest_ram`: behind the header and two pieces more they are pages of it, and pieces of
  /// many are sent by reference: what the guest writes before the peer has them goes along or not.
  void send_parts(FrameHeader header, std::span<iovec> parts, bool guest_ram = false);

  /// The next frame's header, checked against max_payload(); Pings are dropped. Pings the peer
  /// while it waits, at most until `timeout_ms` (-1: until the deadline).
  FrameHeader receive_header(int timeout_ms);
  void receive_exactly(std::span<std::byte> into);
  /// Reads into several buffers; `parts` is consumed.
  void receive_parts(std::span<iovec> parts);
  std::vector<std::byte> receive_payload(const FrameHeader& header);
  /// Whether receive_into_file() can, and pages are sent by reference: not under TLS, nor where no
  /// pipe of a useful size is to be had.
  bool splices() { return !tls_ && pipe().bytes >= kWorthSplicing; }
  /// The next `bytes` into `file`, past every mapping of it.
  void receive_into_file(int file, std::uint64_t offset, std::uint64_t bytes);
  /// From so many on that is cheaper than a copy.
  static constexpr std::size_t kWorthSplicing = 32u << 10;
  bool readable();

  /// For the end that sends pages and expects no answer meanwhile: drops the Pings that came
  /// (unread they would fill the peer's send buffer and stop it) and throws with the reason if the
  /// peer has given up. Anything else is left for receive_header(). Never waits for a frame to
  /// begin.
  void heed_peer();
  /// heed_peer(), and whether a frame has begun to come that is no Ping: receive_header() takes it
  /// without waiting. Throws when the peer has closed its end and nothing more comes.
  bool frame_waiting();
  /// Bytes handed to the kernel that it has not sent yet.
  std::size_t unsent() const;
  /// These, and those sent that the peer's kernel has not confirmed.
  std::size_t unacknowledged() const;
  /// heed_peer(), and throws if the peer has closed its end.
  void require_peer();

  /// Waits until `fd` is readable, at most `timeout_ms`; true if it is. Fails like everything else
  /// when the connection breaks meanwhile; so it may stand for "wait for the peer's RDMA".
  bool wait_for(int fd, int timeout_ms);

  void interrupt() { interrupt_.signal(); }
  std::uint64_t bytes_sent() const { return bytes_sent_; }

 private:
  struct Pipe {
    Pipe();
    sys::UniqueFd in, out;
    std::size_t bytes = 0;  // it takes; 0: there is none
  };

  const Pipe& pipe();
  void send_copied(std::span<iovec> parts, bool more);
  void send_by_reference(std::span<const std::byte> bytes, bool more);
  void shake_hands(tls::Handshake& handshake, const char* who);
  std::byte first_byte();
  void linger() noexcept;
  ssize_t try_send(std::span<iovec> parts, bool more = false);
  ssize_t try_receive(std::span<iovec> parts);
  bool poll_socket(short events, int most_ms);
  void wait(short events);
  void wait_for_bytes(std::size_t bytes);
  [[noreturn]] static void fail(const char* doing);
  [[noreturn]] void fail_send();
  void ping_if_due();

  sys::UniqueFd socket_;
  std::unique_ptr<tls::Stream> tls_;
  std::optional<Pipe> pipe_;  // empty between frames, unless one was torn
  sys::EventFd interrupt_;
  std::optional<FrameHeader> early_;  // read by heed_peer(), for receive_header()
  std::optional<Clock::time_point> deadline_;
  std::chrono::milliseconds patience_{0};
  Clock::time_point last_sent_ = Clock::now();
  std::uint64_t bytes_sent_ = 0;
};

}  // namespace godwit::migration
