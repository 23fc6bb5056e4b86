// How the further connections of a move by TCP come about. Used by the thread that owns the wire.
#pragma once

#include <cstddef>
#include <list>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "migration/protocol.h"
#include "migration/tls/stream.h"
#include "migration/tls/tls.h"
#include "migration/wire.h"
#include "vmm/sys/unique_fd.h"

namespace godwit::migration {

/// The destination's: takes connections on the port that the first one came by, and of these only
/// those that show the token. Whoever else comes is dropped, and holds up nobody.
class StreamDoor {
 public:
  /// `listener`: the listening socket, which must outlive it. At most `count` are taken. `tls`:
  /// they go by that; or null.
  StreamDoor(int listener, std::string token, std::size_t count,
             std::shared_ptr<const tls::Context> tls);

  /// Takes what comes until `wire` has a frame, at most for `timeout_ms`; throws ChannelError.
  void await_frame(Wire& wire, int timeout_ms);
  /// The first `count`, which the peer says it has opened; throws ChannelError where they do not
  /// come.
  std::vector<Wire> take(Wire& wire, std::size_t count);

 private:
  struct Guest {
    sys::UniqueFd socket;
    std::unique_ptr<tls::Handshake> handshake;  // as long as it goes on
    std::unique_ptr<tls::Stream> stream;        // by TLS, after that
    std::vector<std::byte> said;
  };
  void accept_some();
  bool hear(Guest& guest);
  static bool greet(Guest& guest);
  bool is_known(std::span<const std::byte> said) const;
  void look(Wire& wire, int timeout_ms);

  const int listener_;
  const std::string token_;
  const std::size_t count_;
  const std::shared_ptr<const tls::Context> tls_;
  sys::UniqueFd epoll_;
  std::list<Guest> waiting_;  // have not shown the token yet; the oldest first
  std::vector<Wire> joined_;
};

/// The source's: opens up to `count` connections to where the first one went, by TLS if that did.
/// Fewer where one cannot be had, or once `stop` is readable.
std::vector<Wire> join_streams(const std::string& to, const std::string& token, std::size_t count,
                               const Security& security, int stop = -1);

}  // namespace godwit::migration
