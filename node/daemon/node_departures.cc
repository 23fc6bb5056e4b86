// One move of one of Node's guests to a peer, from the reservation to what came of it, also where
// that is known only later.
#include <algorithm>
#include <string>
#include <utility>

#include "node/daemon/json_fields.h"
#include "node/daemon/node.h"

namespace godwit::node {

using balancer::Cause;
using nlohmann::json;

namespace {

constexpr std::chrono::milliseconds kDoubtWait{5000};  // for news of a move in doubt, at a time
constexpr double kReluctance = 3;                      // intervals, doubled every time

/// By the balancer of this node, for the sake of the loads.
bool decided(Cause cause) {
  return cause != Cause::kHand && cause != Cause::kDrain && cause != Cause::kNone;
}

}  // namespace

/// Reserves at the peer, moves, and tells it that the move is over, so that the reservation does
/// not outlive the attempt.
json Node::move_guest(const std::string& name, const std::string& peer, Errand errand,
                      json settings) {
  peers_.require(peer);
  const Leaving leaving = begin_move(name, peer);
  Departure departure{name, peer, errand.cause, leaving.coming, errand.record, {}, false};
  departure.dry_run = number_in(settings, "dry_run").value_or(0) != 0;
  const auto note = [&] {
    if (departure.record == 0 && !departure.dry_run) departure.record = records_.add(errand.entry);
  };
  json report, place;
  std::string why;
  End end = End::kNotBegun;
  try {
    place = peers_.request(peer, "POST", "/v1/reservations",
                           {{"guest", leaving.description},
                            {"from", config_.name},
                            {"forced", errand.cause == Cause::kHand},
                            {"record", decided(errand.cause) ? errand.record : 0}},
                           kReserveTimeout);
    departure.place = text_in(place, "id").value_or("");
    note();
    report = send(name, {peer, text_in(place, "address").value_or(""), departure.record},
                  std::move(settings), why);
    end = End::kFailed;  // unless it has completed
  } catch (const ClientError& error) {
    why = error.what();
    end = end_of(error);
    if (end != End::kNotBegun) report = {{"status", "refused"}};
    if (end == End::kFailed) note();
    const std::lock_guard lock(mutex_);
    if (decided(errand.cause)) hold_off(peer);
  }
  end_departure(departure, end, report, why);
  if (end == End::kBusy) throw Busy(why);
  if (report.is_null() || place.is_null()) throw Conflict(why);
  report["peer"] = peer;
  return report;
}

/// In doubt only for now: a thread of its own waits until that is settled. The place of a guest in
/// doubt is kept: its process alone can say whether it runs there.
void Node::end_departure(const Departure& departure, End end, const json& report,
                         const std::string& why) {
  const bool in_doubt = is_in_doubt(report);
  if (text_in(report, "status") == "completed") end = End::kMoved;
  if (!in_doubt && !departure.place.empty()) release_at(departure.peer, departure.place);
  if (end == End::kMoved && decided(departure.cause)) {
    note_undone(departure.guest, departure.coming, departure.peer);
  }
  // What it is now, not what it was in the last round: a person may ask for the next move at once.
  if (!in_doubt && end != End::kMoved) look_after(departure.guest);
  const std::lock_guard lock(mutex_);
  ManagedGuest* guest = find(departure.guest);
  if (in_doubt) {
    if (guest != nullptr) guest->state = "in-doubt";
    if (!ending_) {  // otherwise the next node goes on with it
      launch(departure.guest, departure.peer, [this, departure] { await_settlement(departure); });
      moves_.back().in_doubt = true;
    }
  } else if (departure.dry_run) {
    if (guest == nullptr) return;
    guest->moving = false;
    guest->going = {};
    keep(*guest);
  } else {
    end_move(departure.guest, end);
  }
  if (end == End::kMoved) {
    reluctant_.erase(departure.peer);
    // What a person asked of a move may have slowed it down.
    if (departure.cause != Cause::kHand) paths_.learn(departure.peer, report);
    finished_.add(report);
  }
  if (departure.record != 0) conclude_record(departure.record, outcome_of(report, why));
}

/// Blocks until the guest's process knows where its guest runs, or has ended, or this node does.
void Node::await_settlement(const Departure& departure) {
  const auto in_doubt = [&](ManagedGuest::Going& going, std::string& api) {
    const std::lock_guard lock(mutex_);
    const ManagedGuest* guest = find(departure.guest);
    if (guest != nullptr) going = guest->going, api = guest->api;
    return !ending_ && guest != nullptr;
  };
  ManagedGuest::Going going;
  std::string api;
  json report{{"status", "in-doubt"}};
  while (is_in_doubt(report) && in_doubt(going, api)) {
    const NodeClient guest(api, nullptr);
    try {
      report = guest.request("POST", "/v1/migration/resume", {{"wait_ms", kDoubtWait.count()}},
                             3 * kDoubtWait);
    } catch (const ClientError&) {  // settled between two questions
      try {
        report = field(guest.request("GET", "/v1/migration", nullptr, kDoubtWait), "last_report");
      } catch (const ClientError&) {
        report = last_report(departure.guest, going.address);
      }
    }
  }
  if (!is_in_doubt(report)) {
    end_departure(departure, End::kFailed, report, text_in(report, "reason").value_or(""));
  }
}

/// The move is over: the peer settles the place, see release(), and is looked at anew. Blocks.
void Node::release_at(const std::string& peer, const std::string& reservation) {
  try {
    peers_.request(peer, "DELETE", "/v1/reservations/" + reservation, nullptr, kReleaseTimeout);
    peers_.ask_again(peer);
  } catch (const ClientError&) {  // its next round sees a guest that has come, or the place expires
  }
}

/// Of a move for which the peer keeps no place.
Node::End Node::end_of(const ClientError& refusal) {
  if (refusal.kind() != ClientError::Kind::kRefused) return End::kNotBegun;
  return refusal.status() == 503 ? End::kBusy : End::kFailed;
}

/// Under the lock.
void Node::end_move(const std::string& name, End end) {
  if (end != End::kBusy) ++counters_[end == End::kMoved ? "moves_completed" : "moves_failed"];
  ManagedGuest* guest = find(name);
  if (guest == nullptr) return;
  guest->gone = end == End::kMoved;
  guest->moving = false;
  guest->going = {};
  if (end == End::kFailed) guest->last_move = seconds();  // not the same again at once
  keep(*guest);
}

/// A peer that took no guest of the balancer's is not looked at for a while, longer each time: what
/// it says of itself, it may go on saying.
void Node::hold_off(const std::string& peer) {
  Reluctant& reluctant = reluctant_[peer];
  reluctant.times = std::min(reluctant.times + 1, 10u);
  const double interval = std::chrono::duration<double>(config_.interval).count();
  const double pause = kReluctance * interval * static_cast<double>(1u << reluctant.times);
  reluctant.until = seconds() + std::min(pause, policy_.cooldown_seconds);
}

}  // namespace godwit::node
