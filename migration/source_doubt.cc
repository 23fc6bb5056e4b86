// Source after a Commit that nobody answered: asks the destination, and the guest's disks.
#include <fmt/format.h>

#include <chrono>
#include <utility>

#include "migration/source.h"

namespace godwit::migration {

using std::chrono::milliseconds;

namespace {
constexpr milliseconds kCallTimeout{2000};
constexpr milliseconds kAnswerTimeout{3000};
constexpr unsigned kSightings = 3;  // of locks in a row: one may be of a process that is just dying
}  // namespace

// Who answers without knowing the token is somebody else, and that is no answer.
Source::Word Source::ask() {
  {
    const std::lock_guard lock(mutex_);
    ++progress_.doubt.attempts;
    progress_.doubt.last_attempt = Clock::now();
  }
  try {
    call_back(kCallTimeout, kAnswerTimeout);
    const FrameHeader header = wire_->receive_header(-1);
    const auto payload = wire_->receive_payload(header);
    switch (header.kind) {
      case MessageKind::kNever:
        confirm();
        hang_up();
        return Word::kNever;
      case MessageKind::kRunning:
        report_.cpu_destination_ms = decode_running(payload).cpu_ms;
        confirm();
        hang_up();
        return Word::kRuns;
      case MessageKind::kAccept:
        if (!server_) break;
        take_up_rest(payload);
        return Word::kRuns;
      case MessageKind::kRefuse:
        throw ChannelError("who listens there now knows nothing of this guest: " +
                           decode_reason(payload));
      default:
        break;
    }
    throw ChannelError(std::string("the peer sent ") + kind_name(header.kind) + " out of turn");
  } catch (const std::exception& error) {
    hang_up();
    note_trouble(error.what());
    return Word::kNone;
  }
}

// Nobody but a destination that has let the guest run marks them, and it has their locks as long as
// it does; see Machine::disks_tell().
Source::Word Source::ask_disks() {
  if (!disks_tell_) return Word::kNone;
  try {
    if (machine_.disk_stamps() != stamps_) {
      const bool runs = machine_.disks_locked_elsewhere();
      sightings_ = runs ? sightings_ + 1 : 0;
      if (sightings_ >= kSightings && !server_) return Word::kRuns;
      note_trouble(runs ? "it runs there, as its disks show"
                        : "it has run there, as its disks show, and nobody has them now");
      return Word::kNone;
    }
    if (machine_.disks_locked_elsewhere()) return Word::kNone;
    machine_.lock_disks();
    if (machine_.disk_stamps() == stamps_) return Word::kNever;
  } catch (const std::exception& error) {
    note_trouble(error.what());
  }
  try {
    machine_.unlock_disks();
  } catch (const std::exception& error) {
    note_trouble(error.what());
  }
  return Word::kNone;
}

void Source::settle(bool there, const std::string& why) {
  report_.status = there ? "completed" : "failed";
  report_.reason = why;
  report_.total_ms = elapsed_ms();
  const std::lock_guard lock(mutex_);
  progress_.phase = report_.status;
  progress_.doubt = {};
}

void Source::stop_asking() {
  const std::lock_guard lock(mutex_);
  stop_asking_.signal();
  if (wire_) wire_->interrupt();
}

/// The destination, on a new connection.
void Source::call_back(milliseconds to_connect, milliseconds to_answer) {
  auto wire = std::make_unique<Wire>(Wire::connect(options_.to, to_connect, stop_asking_.fd()));
  {
    const std::lock_guard lock(mutex_);
    wire_ = std::move(wire);
  }
  wire_->set_deadline(Clock::now() + to_answer);
  wire_->meet(security_, to_answer);
  wire_->send_json(MessageKind::kResume, encode(Resume{token_, false, {}}));
}

void Source::hang_up() {
  const std::lock_guard lock(mutex_);
  wire_.reset();
}

void Source::note_trouble(const std::string& why) {
  const std::lock_guard lock(mutex_);
  progress_.doubt.last_error = why;
}

}  // namespace godwit::migration
