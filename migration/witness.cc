#include "migration/witness.h"

#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <exception>
#include <utility>

namespace godwit::migration {

namespace {

constexpr std::chrono::milliseconds kIntroduction{2000};  // for who comes to say who it is
constexpr int kHearTimeoutMs = 2000;                      // for the source to say that it has heard
constexpr int kGlanceMs = 100;                            // between two looks at whether to stop

/// Waits for the next connection; none when `stop` was signalled or it is too late.
sys::UniqueFd next_visitor(int listener, const sys::EventFd& stop,
                           std::optional<std::chrono::steady_clock::time_point> until) {
  for (;;) {
    int left = -1;
    if (until) {
      const auto ms =
          std::chrono::ceil<std::chrono::milliseconds>(*until - std::chrono::steady_clock::now());
      left = static_cast<int>(std::clamp<std::int64_t>(ms.count(), 0, 1 << 30));
    }
    std::array<pollfd, 2> polls{{{listener, POLLIN, 0}, {stop.fd(), POLLIN, 0}}};
    const int ready = ::poll(polls.data(), polls.size(), left);
    if (ready == 0 || (ready > 0 && polls[1].revents != 0)) return {};
    if (ready < 0 || polls[0].revents == 0) continue;
    sys::UniqueFd connection(::accept4(listener, nullptr, nullptr, SOCK_CLOEXEC));
    if (connection) return connection;
  }
}

}  // namespace

std::optional<Wire> take_source(sys::UniqueFd connection, const Comeback& comeback) try {
  Wire wire(std::move(connection));
  wire.set_deadline(Wire::Clock::now() + kIntroduction);
  if (comeback.tls && !wire.accept_tls(*comeback.tls)) return std::nullopt;
  wire.greet();
  const FrameHeader header = wire.receive_header(-1);
  const auto payload = wire.receive_payload(header);
  if (header.kind != MessageKind::kResume || decode_resume(payload).token != comeback.token) {
    wire.send_json(MessageKind::kRefuse, encode_reason("a guest waits here for another source"));
    return std::nullopt;
  }
  wire.set_deadline(std::nullopt);
  return wire;
} catch (const std::exception&) {
  return std::nullopt;  // whoever it was: the next one may be it
}

void answer_source(const Comeback& comeback, MessageKind word, const std::string& text,
                   const sys::EventFd& stop,
                   std::optional<std::chrono::steady_clock::time_point> until) noexcept {
  while (comeback.listener) {
    sys::UniqueFd connection = next_visitor(comeback.listener.get(), stop, until);
    if (!connection) return;
    try {
      std::optional<Wire> wire = take_source(std::move(connection), comeback);
      if (!wire) continue;
      wire->send_json(word, text);
      if (wire->receive_header(kHearTimeoutMs).kind == MessageKind::kArrived) return;
    } catch (const std::exception&) {
      // It may come again.
    }
  }
}

Witness::Witness(Wire wire, Comeback comeback, Running running)
    : thread_([this, wire = std::move(wire), comeback = std::move(comeback), running]() mutable {
        follow(std::move(wire), comeback, running);
      }) {}

Witness::~Witness() {
  stop_.signal();
  thread_.join();
}

void Witness::follow(Wire wire, const Comeback& comeback, const Running& running) {
  try {
    while (!wire.frame_waiting()) {
      if (stop_.drain()) return;
      wire.wait_for(wire.fd(), kGlanceMs);
    }
    if (wire.receive_header(0).kind == MessageKind::kArrived) return;
  } catch (const std::exception&) {
    // The link is lost, or was it all the time.
  }
  { const Wire gone = std::move(wire); }
  answer_source(comeback, MessageKind::kRunning, encode(running), stop_, std::nullopt);
}

}  // namespace godwit::migration
