// What became of Node's moves: joined to their records.
#include <fmt/format.h>

#include "node/daemon/json_fields.h"
#include "node/daemon/node.h"

namespace godwit::node {

using nlohmann::json;
using std::chrono::milliseconds;

namespace {

constexpr double kSettled = 30;  // seconds after a move until its effect is judged
constexpr double kUndone = 900;  // seconds: a guest moved on within that undoes the move before
constexpr milliseconds kTell{2000};

}  // namespace

/// Under the lock.
void Node::conclude_record(std::uint64_t record, const json& outcome, double load_before) {
  const double now = seconds();
  records_.conclude(record, outcome);
  const std::string status = text_in(outcome, "status").value_or("");
  if (status == "completed" || status == "half") {
    verdicts_.push_back({record, now + kSettled, load_before});
  }
  // The peer's view of itself, and ours of it, are stale now.
  std::uniform_real_distribution<double> jitter(1, 3);
  const double interval = std::chrono::duration<double>(config_.interval).count();
  quiet_until_ = now + interval * jitter(random_);
}

/// Did the load fall as was promised?
void Node::judge(double now) {
  const std::lock_guard lock(mutex_);
  const balancer::HostView self = self_view();
  const double load = self.forecast.mean / self.capacity;
  std::erase_if(verdicts_, [&](const Verdict& verdict) {
    if (now < verdict.due) return false;
    records_.conclude(verdict.record, {{"source_load_before", verdict.load_before},
                                       {"source_load_later", load},
                                       {"relieved", load < verdict.load_before}});
    return true;
  });
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
