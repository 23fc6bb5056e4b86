// One move of one of Node's guests to a peer, from the reservation to what came of it, also where
// that is known only later.
#include <algorithm>
#include <string>
#include <utility>

#include "node/daemon/json_fields.h"
#include "node/daemon/node.h"

namespace godwit::node {

using nlohmann::json;

namespace {
constexpr std::chrono::milliseconds kDoubtWait{5000};  // for news of a move in doubt, at a time
}  // namespace

/// Reserves at the peer, moves, and sees to it that the reservation does not outlive the attempt.
json Node::move_guest(const std::string& name, const std::string& peer, std::uint64_t record,
                      json settings) {
  const bool dry_run = number_in(settings, "dry_run").value_or(0) != 0;
  Departure departure{name, peer, record, dry_run, begin_move(name, peer, dry_run), {}};
  json report;
  std::string why;
  try {
    const json place = peers_.request(
        peer, "POST", "/v1/reservations",
        {{"guest", departure.leaving.description}, {"from", config_.name}, {"forced", record == 0}},
        kReserveTimeout);
    departure.place = text_in(place, "id").value_or("");
    settings["to"] = text_in(place, "address").value_or("");
    report = send(departure.leaving.api, departure.peer, settings, why);
  } catch (const std::exception& error) {
    if (why.empty()) why = error.what();
  }
  end_departure(departure, report, why);
  if (report.is_null()) throw Conflict(why);
  report["peer"] = peer;
  return report;
}

/// In doubt only for now: a thread of its own waits until that is settled.
void Node::end_departure(const Departure& departure, const json& report, std::string why) {
  const std::string status = text_in(report, "status").value_or("failed");
  const bool in_doubt = is_in_doubt(report);
  if (status != "completed" && !in_doubt && !departure.place.empty()) {
    try {
      const std::string target = "/v1/reservations/" + departure.place;
      peers_.request(departure.peer, "DELETE", target, nullptr, kReleaseTimeout);
    } catch (const ClientError& error) {  // it ends by itself
      if (why.empty()) why = error.what();
    }
  }
  const std::lock_guard lock(mutex_);
  if (in_doubt && !ending_) {
    launch(departure.guest, departure.peer, [this, departure] { await_settlement(departure); });
    moves_.back().in_doubt = true;
  } else if (departure.dry_run) {
    if (ManagedGuest* guest = find(departure.guest)) guest->moving = false;
  } else {
    end_move(departure.guest, status == "completed");
  }
  if (departure.record == 0) return;
  json outcome{{"status", status}, {"reason", why}};
  for (const char* key : {"total_ms", "downtime_ms", "transport"})
    outcome[key] = field(report, key);
  conclude_record(departure.record, outcome, departure.leaving.load_before);
}

/// Blocks until the guest's process knows where its guest runs, or has ended, or this node does.
void Node::await_settlement(const Departure& departure) {
  json report;
  std::string why;
  do {
    try {
      report = NodeClient(departure.leaving.api, nullptr)
                   .request("POST", "/v1/migration/resume", {{"wait_ms", kDoubtWait.count()}},
                            3 * kDoubtWait);
      why = text_in(report, "reason").value_or("");
    } catch (const ClientError&) {
      report = settled_meanwhile(departure, why);
    }
    const std::lock_guard lock(mutex_);
    if (ending_) break;
  } while (is_in_doubt(report));
  end_departure(departure, report, why);
}

/// The report of a guest that is no longer in doubt, from between two questions.
json Node::settled_meanwhile(const Departure& departure, std::string& why) {
  try {
    const json now = NodeClient(departure.leaving.api, nullptr)
                         .request("GET", "/v1/migration", nullptr, kDoubtWait);
    why = text_in(field(now, "last_report"), "reason").value_or("");
    return field(now, "last_report");
  } catch (const ClientError&) {
    const std::string words = last_words(departure.guest);
    why = "its process has ended: " + words;
    const bool moved = words.find(" moved to ") != std::string::npos;
    return {{"status", moved ? "completed" : "failed"}};
  }
}

bool Node::moves_are_under_way() const {
  return std::any_of(moves_.begin(), moves_.end(), [](const Move& move) { return !move.in_doubt; });
}

}  // namespace godwit::node
