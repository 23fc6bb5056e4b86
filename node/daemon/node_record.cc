// What Node writes down of a decision: its figures, its inputs, and itself in words. Under the
// lock.
#include <algorithm>
#include <vector>

#include "balancer/damping.h"
#include "node/daemon/json_fields.h"
#include "node/daemon/node.h"

namespace godwit::node {

using balancer::Action;
using balancer::Cause;
using balancer::ClusterView;
using balancer::Decision;
using nlohmann::json;

namespace {

constexpr double kRecordAgain = 600;  // seconds: the same reason to stay, or advice
constexpr std::size_t kGuestsRecorded = 32;

json host_figures(const balancer::HostView& host, const std::string& name) {
  return {{"name", name},
          {"load", host.demand / host.capacity},
          {"forecast_load", host.forecast.mean / host.capacity},
          {"memory_used", host.memory_used},
          {"memory", host.memory},
          {"guests", host.guests},
          {"incoming", host.incoming},
          {"outgoing", host.outgoing},
          {"closed", host.closed}};
}

}  // namespace

std::string Node::in_words(const Decision& decision, const Names& names) {
  return balancer::explain(
      decision, [&](std::uint64_t guest) { return names.guest(guest); },
      [&](std::uint64_t host) { return names.host(host); }, kWorkUnit);
}

/// Of the largest guests of this host, when it decided.
json Node::guest_figures(const ClusterView& view, const Names& names) const {
  std::vector<const balancer::GuestView*> largest;
  for (const balancer::GuestView& guest : view.guests) largest.push_back(&guest);
  std::sort(largest.begin(), largest.end(),
            [](const auto* a, const auto* b) { return a->forecast.mean > b->forecast.mean; });
  if (largest.size() > kGuestsRecorded) largest.resize(kGuestsRecorded);
  json list = json::array();
  for (const balancer::GuestView* each : largest) {
    const std::string& name = names.guests.at(each->id);
    const ManagedGuest& guest = guests_.at(name);
    const double rests = each->last_move + balancer::cooldown(*each, policy_) - view.now;
    list.push_back({{"name", name},
                    {"demand", guest.demand},
                    {"forecast", guest.load.forecast(each->most, policy_).mean},
                    {"memory", guest.memory},
                    {"memory_used", guest.memory_used},
                    {"dirty_rate", guest.dirty_rate},
                    {"pinned", each->pinned},
                    {"rests_s", std::max(0.0, rests)}});
  }
  return list;
}

/// What is kept of a decision.
json Node::entry_of(const Decision& decided, const ClusterView& view, const Names& names) const {
  const Decision decision = in_core_seconds(decided);
  json entry{{"action", balancer::name(decision.action)},
             {"cause", balancer::name(decision.cause)},
             {"obstacle", balancer::name(decision.obstacle)},
             {"guest", names.guest(decision.guest)},
             {"from", config_.name},
             {"to", names.host(decision.target)},
             {"benefit", decision.benefit},
             {"cost", decision.cost},
             {"predicted",
              {{"seconds", decision.seconds},
               {"downtime_s", decision.downtime},
               {"source_before", decision.source_before},
               {"source_after", decision.source_after},
               {"target_before", decision.target_before},
               {"target_after", decision.target_after}}},
             {"mode", mode_name(mode_)},
             {"text", in_words(decision, names)},
             {"inputs",
              {{"self", host_figures(view.self, config_.name)},
               {"hot", view.hot},
               {"guests", guest_figures(view, names)},
               {"peers", json::array()}}}};
  if (decision.action == Action::kSwap) entry["partner"] = names.guest(decision.partner);
  for (const balancer::HostView& peer : view.peers) {
    entry["inputs"]["peers"].push_back(host_figures(peer, names.host(peer.id)));
  }
  return entry;
}

/// A round a second says the same again and again.
bool Node::is_news(const Decision& decision, const Names& names, double now) {
  std::erase_if(said_, [now](const auto& one) { return now - one.second >= kRecordAgain; });
  const json what{balancer::name(decision.action), balancer::name(decision.cause),
                  balancer::name(decision.obstacle), names.guest(decision.guest),
                  names.host(decision.target)};
  return said_.emplace(what.dump(), now).second;
}

/// Of the balancer's own decisions; 0 for one that is no news.
std::uint64_t Node::record(const Decision& decision, const ClusterView& view, const Names& names) {
  if (decision.cause == Cause::kNone && decision.obstacle == balancer::Obstacle::kBalanced)
    return 0;
  const bool acts = decision.action == Action::kMove || decision.action == Action::kSwap ||
                    decision.action == Action::kWake;
  if (!acts) ++counters_["refusals"];
  if ((!acts || (mode_ == Mode::kAdvise && decision.cause != Cause::kDrain)) &&
      !is_news(decision, names, view.now)) {
    return 0;
  }
  return records_.add(entry_of(decision, view, names));
}

}  // namespace godwit::node
