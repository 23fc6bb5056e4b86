// What became of Node's moves: joined to their records.
#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "node/daemon/json_fields.h"
#include "node/daemon/node.h"
#include "node/daemon/verdict.h"

namespace godwit::node {

using nlohmann::json;
using std::chrono::milliseconds;

namespace {

constexpr double kSettled = 30;  // intervals after a move until its effect is judged
constexpr double kUndone = 900;  // seconds: a guest moved on within that undoes the move before
constexpr milliseconds kTell{2000};

}  // namespace

/// Of a move by its guest's report; `why` it failed.
json Node::outcome_of(const json& report, const std::string& why) {
  json outcome{{"status", text_in(report, "status").value_or("failed")}, {"reason", why}};
  for (const char* key : {"total_ms", "downtime_ms", "transport"})
    outcome[key] = field(report, key);
  return outcome;
}

/// Those of guests that are here, or expected.
std::set<std::uint64_t> Node::ids() const {
  std::set<std::uint64_t> ids;
  for (const auto& [name, guest] : guests_) {
    if (!guest.gone) ids.insert(guest.id);
  }
  return ids;
}

/// Under the lock.
void Node::conclude_record(std::uint64_t record, const json& outcome) {
  const double now = seconds();
  const double interval = std::chrono::duration<double>(config_.interval).count();
  records_.conclude(record, outcome);
  const std::string status = text_in(outcome, "status").value_or("");
  if (status == "completed" || status == "half") {
    verdicts_.push_back({record, now + kSettled * interval, ids()});
  }
  // The peer's view of itself, and ours of it, are stale now.
  std::uniform_real_distribution<double> jitter(1, 3);
  quiet_until_ = now + interval * jitter(random_);
}

/// Did the loads come out as was promised?
void Node::judge(double now) {
  const std::lock_guard lock(mutex_);
  const auto due = [now](const Verdict& verdict) { return now >= verdict.due; };
  if (std::none_of(verdicts_.begin(), verdicts_.end(), due)) return;
  const balancer::HostView self = self_view();
  std::map<std::string, SettledHost> hosts{
      {config_.name, {self.forecast.mean / self.capacity, self.guests}}};
  for (const PeerState& peer : peers_.states()) {
    const json& host = field(peer.view, "host");
    const auto load = number_in(field(host, "forecast"), "mean");
    const auto capacity = number_in(host, "capacity");
    const auto guests = number_in(host, "guests");
    if (!peer.alive || !load || !capacity || *capacity <= 0 || !guests || *guests < 0) continue;
    hosts[peer.name] = {*load / *capacity, static_cast<std::size_t>(std::min(*guests, 1e6))};
  }
  const std::set<std::uint64_t> here = ids();
  for (const Verdict& one : verdicts_) {
    if (!due(one)) continue;
    records_.conclude(one.record, verdict(records_.find(one.record), hosts, here == one.guests));
  }
  std::erase_if(verdicts_, due);
}

/// Of the node before this one, what it could not conclude, and this one will not.
void Node::close_records() {
  std::set<std::uint64_t> open;
  for (const auto& [name, guest] : guests_) open.insert(guest.going.record);
  for (const Verdict& verdict : verdicts_) open.insert(verdict.record);
  for (const json& record : records_.newest(Records::kKept)) {
    const auto id = record["id"].get<std::uint64_t>();
    const json outcome = open.contains(id) ? json() : unknown_outcome(record);
    if (!outcome.is_null()) records_.conclude(id, outcome);
  }
}

/// The balancer has moved a guest on. If it had come by a decision of the balancer at its old host
/// not long before, that one was wrong: told to who recorded it. Blocks.
void Node::note_undone(const std::string& guest, const ManagedGuest::Coming& coming,
                       const std::string& to) {
  const double stayed = seconds() - coming.when;
  if (coming.record == 0 || stayed > kUndone) return;
  {
    const std::lock_guard lock(mutex_);
    ++counters_["moves_undone"];
  }
  try {
    peers_.request(coming.from, "POST", "/v1/undone",
                   {{"guest", guest}, {"record", coming.record}, {"to", to}, {"after_s", stayed}},
                   kTell);
  } catch (const std::exception& error) {
    fmt::print(stderr, "godwit: node: {} does not hear that its move of {} was undone: {}\n",
               coming.from, guest, error.what());
  }
}

json Node::undone(const json& request) {
  const std::uint64_t id = record_in(request);
  const json record = records_.find(id);
  if (!record.is_object() || text_in(record, "guest") != text_in(request, "guest") ||
      text_in(field(record, "outcome"), "status").value_or("failed") == "failed") {
    throw std::out_of_range(fmt::format("{} has no such record of a move", config_.name));
  }
  records_.conclude(id, {{"undone",
                          {{"after_s", number_in(request, "after_s").value_or(0)},
                           {"to", text_in(request, "to").value_or("?")}}}});
  return {{"ok", true}};
}

}  // namespace godwit::node
