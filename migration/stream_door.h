// How the further connections of a move by TCP come about. Used by the thread that owns the wire.
#pragma once

#include <cstddef>
#include <list>
#include <string>
#include <vector>

#include "migration/protocol.h"
#include "migration/wire.h"
#include "vmm/sys/unique_fd.h"

namespace godwit::migration {

/// The destination's: takes connections on the port that the first one came by, and of these only
/// those that show the token. Whoever else comes is dropped, and holds up nobody.
class StreamDoor {
 public:
  /// `listener`: the listening socket, which must outlive it. At most `count` are taken.
  StreamDoor(int listener, std::string token, std::size_t count);

  /// Takes what comes until `wire` has a frame, at most for `timeout_ms`; throws ChannelError.
  void await_frame(Wire& wire, int timeout_ms);
  /// The first `count`, which the peer says it has opened; throws ChannelError where they do not
  /// come.
  std::vector<Wire> take(Wire& wire, std::size_t count);

 private:
  struct Guest {
    sys::UniqueFd socket;
    std::vector<std::byte> said;
  };
  void accept_some();
  bool hear(Guest& guest);
  void look(Wire& wire, int timeout_ms);

  const int listener_;
  const std::string token_;
  const std::size_t count_;
  sys::UniqueFd epoll_;
  std::list<Guest> waiting_;  // have not shown the token yet; the oldest first
  std::vector<Wire> joined_;
};

/// The source's: opens up to `count` connections to where the first one went. Fewer where one
/// cannot be had.
std::vector<Wire> join_streams(const std::string& to, const std::string& token, std::size_t count);

}  // namespace godwit::migration
