#include "tests/balancer/account.h"

#include <fmt/core.h>

#include <algorithm>
#include <cmath>

namespace godwit::balancer {

namespace {

double rest(const GuestView& guest, const PolicyConfig& policy) {
  const double doublings = std::clamp(static_cast<double>(guest.recent_moves) - 1, 0.0, 6.0);
  return policy.cooldown_seconds * std::exp2(doublings);
}

bool finite(const Decision& d) {
  for (const double figure : {d.benefit, d.cost, d.seconds, d.downtime, d.source_before,
                              d.source_after, d.target_before, d.target_after}) {
    if (!std::isfinite(figure)) return false;
  }
  return true;
}

}  // namespace

Account::Account(const ClusterView& view, const PolicyConfig& policy)
    : view_(view), policy_(policy), self_{view.self, {}, {}} {
  for (const HostView& peer : view.peers) {
    peers_.emplace(peer.id, End{peer, {}, {}});
    for (const GuestView& offer : peer.offers) offers_.emplace(offer.id, &offer);
  }
  for (const GuestView& guest : view.guests) {
    guests_[guest.id] = &guest;
    if (guest.keep_together != 0) together_[guest.keep_together].insert(view.self.id);
  }
}

void Account::check(bool holds, const std::string& rule, const Decision& decision) {
  if (!holds) violations_.push_back(rule + ": " + explain(decision));
}

void Account::move(const GuestView& guest, End& from, End& to, const Decision& decision) {
  const bool drain = decision.cause == Cause::kDrain;
  check(!guest.pinned, "pinned", decision);
  check(!guest.moving, "moving already", decision);
  check(to.host.alive, "dead target", decision);
  check(!to.host.closed, "closed target", decision);
  check((guest.needs & ~to.host.has) == 0, "needs what the target has not", decision);
  const double core = to.host.core > 0 ? to.host.core : to.host.capacity;
  check(guest.demand <= core && guest.forecast.mean <= core, "core too slow", decision);
  if (!drain) {  // a drain is a person's wish: damping does not stand in its way
    const double since = view_.now - guest.last_move;
    check(since >= rest(guest, policy_), "moved before it had rested", decision);
    check(guest.left != to.host.id || since >= 4 * rest(guest, policy_), "sent back", decision);
  }
  from.departures.push_back(&guest);
  to.arrivals.push_back(&guest);
}

void Account::apply(const Decision& decision) {
  check(finite(decision), "figures that are not finite", decision);
  if (decision.action == Action::kWake) woken_.insert(decision.target);
  if (decision.action != Action::kMove && decision.action != Action::kSwap) return;
  drains_ = drains_ || decision.cause == Cause::kDrain;
  const auto guest = guests_.find(decision.guest);
  const auto target = peers_.find(decision.target);
  check(guest != guests_.end(), "guest not here (any more)", decision);
  check(target != peers_.end(), "target not among the peers", decision);
  check(decision.source == view_.self.id && decision.target != view_.self.id, "ends", decision);
  if (!violations_.empty()) return;
  check(target->second.host.awake || woken_.contains(decision.target), "asleep target", decision);
  move(*guest->second, self_, target->second, decision);
  if (guest->second->keep_together != 0) {
    together_[guest->second->keep_together].insert(decision.target);
  }
  guests_.erase(guest);
  if (decision.action == Action::kSwap) {
    const auto partner = offers_.find(decision.partner);
    check(partner != offers_.end(), "partner not offered (any more)", decision);
    if (partner == offers_.end()) return;
    check(partner->second->keep_together == 0, "partner taken from its group", decision);
    move(*partner->second, target->second, self_, decision);
    offers_.erase(partner);
  }
  check(drains_ || decision.benefit > 0, "no benefit", decision);
  plans_[decision.plan].first += decision.benefit;
  plans_[decision.plan].second += decision.cost;
}

void Account::close_end(const End& end, bool is_self) {
  const HostView& host = end.host;
  double memory = host.memory_used, mean = host.forecast.mean, variance = host.forecast.variance;
  std::multiset<std::uint32_t> groups(host.groups.begin(), host.groups.end());
  for (const GuestView* guest : end.departures) {
    memory = std::max(0.0, memory - guest->memory);
    mean = std::max(0.0, mean - guest->forecast.mean);
    variance = std::max(0.0, variance - guest->forecast.variance);
    const auto group = groups.find(guest->keep_apart);
    if (group != groups.end()) groups.erase(group);
  }
  for (const GuestView* guest : end.arrivals) {
    memory += guest->memory;
    mean += guest->forecast.mean;
    variance += guest->forecast.variance;
    if (guest->keep_apart != 0) groups.insert(guest->keep_apart);
  }
  const auto check_end = [&](bool holds, const std::string& rule) {
    if (!holds) violations_.push_back(fmt::format("{} of host {} after the round", rule, host.id));
  };
  for (const GuestView* guest : end.arrivals) {
    check_end(guest->keep_apart == 0 || groups.count(guest->keep_apart) == 1, "keep_apart");
  }
  const auto arrivals = static_cast<int>(end.arrivals.size());
  const auto departures = static_cast<int>(end.departures.size());
  if (arrivals > 0) {
    check_end(host.memory <= 0 || memory <= host.memory * (1 + 1e-9), "memory");
    if (!drains_) check_end(host.incoming + arrivals <= policy_.incoming_limit, "incoming_limit");
  }
  if (departures > 0 && !drains_) {
    check_end(host.outgoing + departures <= policy_.outgoing_limit, "outgoing_limit");
  }
  // A host that gives guests away may still be above its threshold, but never for an arrival alone.
  if (arrivals > 0 && !is_self) {
    check_end(mean + policy_.confidence * std::sqrt(variance) <=
                  policy_.fill * host.capacity * (1 + 1e-9),
              "threshold");
  }
}

void Account::close_groups() {
  for (const GuestView& guest : view_.guests) {
    if (guest.keep_together == 0 || guests_.contains(guest.id)) continue;
    std::set<HostId>& hosts = together_[guest.keep_together];
    // All of them left?
    const bool stayed = std::any_of(guests_.begin(), guests_.end(), [&](const auto& left) {
      return left.second->keep_together == guest.keep_together;
    });
    if (!stayed) hosts.erase(view_.self.id);
    if (hosts.size() != 1) {
      violations_.push_back(fmt::format("keep_together {} torn apart", guest.keep_together));
    }
  }
}

void Account::close() {
  if (!violations_.empty()) return;
  close_end(self_, true);
  for (const auto& [id, end] : peers_) close_end(end, false);
  close_groups();
  for (const auto& [plan, worth] : plans_) {
    const double least = policy_.margin * worth.second;
    if (!drains_ && !(worth.first > least - 1e-9 * std::abs(least))) {
      violations_.push_back(fmt::format("plan {}: benefit {} for a cost of {}, margin {}", plan,
                                        worth.first, worth.second, policy_.margin));
    }
  }
}

}  // namespace godwit::balancer
