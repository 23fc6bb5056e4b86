// What a destination owes a source that has sent its Commit and may not have heard the answer: the
// word whether the guest runs here, whenever it comes and asks.
#pragma once

#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <thread>

#include "migration/protocol.h"
#include "migration/wire.h"
#include "vmm/sys/event_fd.h"
#include "vmm/sys/unique_fd.h"

namespace godwit::migration {

/// Where a source comes back to after a lost link, and what it must show then.
struct Comeback {
  sys::UniqueFd listener;  // a listening TCP socket, or none: then it cannot
  std::string token;
  std::shared_ptr<const tls::Context> tls = {};  // by which it comes; null: it does not
};

/// The connection of who has come by it, as it must, and shown the token; others are sent away.
std::optional<Wire> take_source(sys::UniqueFd connection, const Comeback& comeback);

/// Says `word` to the source each time that it comes, until it has heard it, `stop` is signalled or
/// `until` has passed. Never throws.
void answer_source(const Comeback& comeback, MessageKind word, const std::string& text,
                   const sys::EventFd& stop,
                   std::optional<std::chrono::steady_clock::time_point> until) noexcept;

/// Of a guest that runs here with all of its memory: waits, in a thread of its own, until the
/// source knows.
class Witness {
 public:
  /// `wire`: by which the source has been told already. `running`: what it was told.
  Witness(Wire wire, Comeback comeback, Running running);
  ~Witness();
  Witness(const Witness&) = delete;
  Witness& operator=(const Witness&) = delete;

 private:
  void follow(Wire wire, const Comeback& comeback, const Running& running);

  sys::EventFd stop_;
  std::thread thread_;
};

}  // namespace godwit::migration
