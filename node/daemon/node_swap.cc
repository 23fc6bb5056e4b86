// Swaps: a guest goes, and one of the peer's comes in exchange, where nothing fits alone. Both
// places are kept before the first guest moves; the peer moves its guest itself.
#include <fmt/format.h>

#include <algorithm>

#include "balancer/offers.h"
#include "balancer/rules.h"
#include "node/control_socket.h"
#include "node/daemon/json_fields.h"
#include "node/daemon/node.h"

namespace godwit::node {

using balancer::GuestView;
using nlohmann::json;
using Clock = std::chrono::steady_clock;

namespace {

constexpr std::size_t kOffersTaken = 16;  // of a peer, whatever it sends
constexpr unsigned kHostShift = 32;       // ids of offers: above those of guests

bool completed(const json& report) { return text_in(report, "status") == "completed"; }

/// A guest that a peer describes, in cores; whatever it says, balancer::sane() decides.
GuestView described(const json& offer, double now) {
  const auto number = [&](const char* key, double otherwise) {
    return number_in(offer, key).value_or(otherwise);
  };
  GuestView view;
  view.demand = number("demand", -1);
  view.most = std::clamp(number("cpus", 1), 1.0, 1024.0);
  view.forecast = {number_in(field(offer, "forecast"), "mean").value_or(-1),
                   number_in(field(offer, "forecast"), "variance").value_or(-1)};
  view.given = number("memory", -1);
  view.memory = number("memory_used", view.given);
  view.dirty_rate = number("dirty_rate", -1);
  view.sensitivity = number("sensitivity", 1);
  view.recent_moves = static_cast<std::uint32_t>(std::clamp(number("recent_moves", 0), 0.0, 64.0));
  const auto age = number_in(offer, "last_move_age_s");
  if (age) view.last_move = now - std::max(0.0, *age);
  return view;
}

}  // namespace

json Node::offers_json(double now) const {
  json list = json::array();
  if (mode_ != Mode::kAutomatic || state_ != State::kOpen || moves_are_under_way()) return list;
  std::vector<GuestView> views;
  for (const auto& [name, guest] : guests_) {
    if (!guest.reserved && !guest.gone) views.push_back(guest_view(guest, now, {}));
  }
  for (const GuestView& view : balancer::offers(std::move(views), now, policy_)) {
    const auto offered = std::find_if(guests_.begin(), guests_.end(), [&](const auto& entry) {
      return entry.second.id == view.id;
    });
    const json all = guest_json(offered->second, now);
    json offer;
    for (const char* key :
         {"name", "cpus", "demand", "forecast", "memory", "memory_used", "dirty_rate",
          "sensitivity", "needs", "apart", "last_move_age_s", "recent_moves", "left"}) {
      offer[key] = all[key];
    }
    list.push_back(std::move(offer));
  }
  return list;
}

std::vector<GuestView> Node::offers_of(const PeerState& peer, std::uint64_t host, double now,
                                       Names& names) {
  std::vector<GuestView> offers;
  for (const json& offer : list_in(field(peer.view, "host"), "offers")) {
    const std::string name = text_in(offer, "name").value_or("");
    if (offers.size() == kOffersTaken) break;
    if (!name_complaint(name).empty() || find(name) != nullptr) continue;
    GuestView view = described(offer, now);
    if (!balancer::sane(view)) continue;
    try {
      const Attributes attributes = attributes_of(offer);
      if (!capabilities_.knows(attributes.needs)) continue;  // so this host has none of the rest
      view.needs = capabilities_.bits(attributes.needs);
      view.keep_apart = group_number(attributes.apart);
    } catch (const std::runtime_error&) {
      continue;
    }
    const auto left =
        std::find(names.hosts.begin(), names.hosts.end(), text_in(offer, "left").value_or(""));
    if (left != names.hosts.end()) {
      view.left = static_cast<std::uint64_t>(left - names.hosts.begin());
    }
    view.id = (host << kHostShift) + offers.size() + 1;
    names.guests[view.id] = name;
    offers.push_back(view);
  }
  return offers;
}

/// Throws Conflict with the reason why this guest of ours is not given away. Under the lock.
void Node::check_promise(const std::string& name) {
  const ManagedGuest* guest = find(name);
  if (guest == nullptr || guest->reserved || guest->gone) {
    throw Conflict(fmt::format("no guest called {} is at {}", name, config_.name));
  }
  if (mode_ != Mode::kAutomatic) {
    throw Conflict(
        fmt::format("{} gives no guest away in mode {}", config_.name, mode_name(mode_)));
  }
  if (guest->leaving() || !guest->promised.empty() || guest->state != "running") {
    throw Conflict(fmt::format("{} cannot move just now", name));
  }
  check_outgoing(name);
  if (guest->attributes.pinned || !guest->attributes.together.empty()) {
    throw Conflict(fmt::format("the rules keep {} at {}", name, config_.name));
  }
}

/// Under the lock; the guest's description for the node that it goes to.
json Node::promise(const std::string& name, const std::string& reservation) {
  ManagedGuest& guest = guests_.at(name);
  guest.promised = reservation;
  guest.promise_ends = Clock::now() + config_.reservation;
  return description_of(guest);
}

/// A promise outlives its place by the time of a reservation: then nobody wants it any more.
void Node::look_after_promise(ManagedGuest& guest) {
  if (guest.moving) return;
  const bool kept = std::any_of(guests_.begin(), guests_.end(), [&](const auto& entry) {
    return entry.second.reserved && entry.second.reservation == guest.promised;
  });
  if (kept) guest.promise_ends = Clock::now() + config_.reservation;
  if (Clock::now() > guest.promise_ends) guest.promised.clear();
}

json Node::give_back(const std::string& reservation, const std::string& address) {
  std::string name;
  std::string peer;
  {
    const std::lock_guard lock(mutex_);
    for (auto& [its, guest] : guests_) {
      if (guest.reservation == reservation) peer = guest.coming.from;
      if (guest.promised == reservation && !reservation.empty() && !guest.moving) name = its;
    }
    if (name.empty()) throw Conflict(config_.name + " has promised nothing for this reservation");
    guests_.at(name).promised.clear();
  }
  const Leaving leaving = begin_move(name, peer);
  const auto extend_place = [&](Clock::time_point deadline) {
    for (auto& [its, guest] : guests_) {
      if (guest.reserved && guest.reservation == reservation) guest.deadline = deadline;
    }
  };
  {
    const std::lock_guard lock(mutex_);
    extend_place(Clock::time_point::max());  // it may be that its guest comes only after this
  }
  std::string why;
  json report = send(name, {peer, address, 0}, json::object(), why);
  end_departure({name, peer, balancer::Cause::kNone, leaving.coming, 0, {}, false}, End::kFailed,
                report, why);
  const std::lock_guard lock(mutex_);
  extend_place(Clock::now() + config_.reservation);
  if (report.is_null()) throw Conflict(why);
  return report;
}

/// One swap, at the node that began it.
struct Node::Swap {
  std::string guest, peer, partner;
  std::uint64_t record = 0;
  Leaving leaving;
  std::string there, there_address;  // the guest's reservation at the peer
  std::string here, here_address;    // the partner's, here
  End out_end = End::kFailed;        // of the guest that leaves, unless it has
  bool partner_first = false;
  json out, back;  // the moves' reports
  std::string out_why, back_why;
  bool out_done = false, back_done = false;
};

void Node::swap_guests(const std::string& guest, const std::string& peer,
                       const std::string& partner, std::uint64_t record) {
  Swap swap;
  swap.guest = guest, swap.peer = peer, swap.partner = partner, swap.record = record;
  swap.leaving = begin_move(guest, peer);
  try {
    reserve_both(swap);
    if (swap.partner_first) fetch_back(swap);
    if (!swap.partner_first || swap.back_done) send_out(swap);
    if (!swap.partner_first && swap.out_done) fetch_back(swap);
  } catch (const ClientError& error) {
    swap.out_why = error.what();
    if (swap.there.empty()) {
      swap.out_end = end_of(error);
      const std::lock_guard lock(mutex_);
      hold_off(peer);
    }
  } catch (const std::exception& error) {
    swap.out_why = error.what();
  }
  settle_both(swap);
  if (swap.out_done) note_undone(guest, swap.leaving.coming, peer);
  conclude_swap(swap);
}

/// Throws when either end has no place; what was kept by then is in `swap`.
void Node::reserve_both(Swap& swap) {
  const json there = peers_.request(swap.peer, "POST", "/v1/reservations",
                                    {{"guest", swap.leaving.description},
                                     {"from", config_.name},
                                     {"exchange", swap.partner},
                                     {"record", swap.record}},
                                    kReserveTimeout);
  swap.there = text_in(there, "id").value_or("");
  swap.there_address = text_in(there, "address").value_or("");
  const json& partner = field(there, "partner");
  if (text_in(partner, "name") != swap.partner) throw Conflict(swap.peer + " promises another");
  {
    const std::lock_guard lock(mutex_);
    // Overloaded as this host is, it may stay above the threshold for newcomers: the balancer knew.
    const PlaceTerms terms{swap.peer, true, swap.guest, 0};
    const balancer::HostView before = self_view();
    ManagedGuest& place = keep_place(admit(partner, terms), terms);
    place.deadline = Clock::time_point::max();
    swap.here = place.reservation;
    swap.partner_first = number_in(there, "beside").value_or(0) == 0;
    // For a moment one host holds both.
    if (swap.partner_first && before.memory_used + place.memory > before.memory) {
      throw Conflict("neither host has the memory for both guests at a time");
    }
  }
  swap.here_address = address_of_place(swap.partner, swap.here);
}

/// But for the place of a guest in doubt: its process alone can say whether it runs there.
void Node::settle_both(const Swap& swap) {
  if (!swap.here.empty() && !is_in_doubt(swap.back)) release(swap.here);
  if (!swap.there.empty() && !is_in_doubt(swap.out)) release_at(swap.peer, swap.there);
}

void Node::send_out(Swap& swap) {
  swap.out =
      send(swap.guest, {swap.peer, swap.there_address, swap.record}, json::object(), swap.out_why);
  swap.out_done = completed(swap.out);
}

void Node::fetch_back(Swap& swap) {
  {
    const std::lock_guard lock(mutex_);
    if (ManagedGuest* place = find(swap.partner)) {
      place->deadline = Clock::now() + config_.reservation;
    }
  }
  try {
    swap.back =
        peers_.request(swap.peer, "POST", "/v1/exchanges",
                       {{"reservation", swap.there}, {"to", swap.here_address}}, kMoveTimeout);
    swap.back_why = text_in(swap.back, "reason").value_or("");
    swap.back_done = completed(swap.back);
  } catch (const ClientError& error) {
    swap.back_why = error.what();
    // Without an answer the peer's guest may be on its way, or here.
    if (error.kind() != ClientError::Kind::kRefused) {
      release(swap.here);
      swap.back_done = has_come(swap.partner, swap.here);
    }
  }
}

/// Waits until a place of ours is used or given up. Blocks.
bool Node::has_come(const std::string& name, const std::string& reservation) {
  std::unique_lock lock(mutex_);
  const auto settled = [&] {
    const ManagedGuest* guest = find(name);
    return ending_ || guest == nullptr || guest->reservation != reservation || !guest->reserved;
  };
  changed_.wait(lock, settled);
  const ManagedGuest* guest = find(name);
  return guest != nullptr && guest->reservation == reservation && !guest->reserved;
}

void Node::conclude_swap(const Swap& swap) {
  const bool in_doubt = is_in_doubt(swap.out) || is_in_doubt(swap.back);
  json outcome{{"status", in_doubt                          ? "in-doubt"
                          : swap.out_done != swap.back_done ? "half"
                          : swap.out_done                   ? "completed"
                                                            : "failed"}};
  std::string reason = swap.out_why;
  if (reason.empty()) reason = swap.back_why;
  if (swap.out_done && !swap.back_done) {
    reason = fmt::format("{} went to {}, {} did not come: {}", swap.guest, swap.peer, swap.partner,
                         swap.back_why);
  } else if (swap.back_done && !swap.out_done) {
    reason = fmt::format("{} came from {}, {} did not go: {}", swap.partner, swap.peer, swap.guest,
                         swap.out_why);
  }
  outcome["reason"] = swap.out_done && swap.back_done ? "" : reason;
  double total = 0;
  double downtime = 0;
  for (const json* report : {&swap.out, &swap.back}) {
    total += number_in(*report, "total_ms").value_or(0);
    downtime = std::max(downtime, number_in(*report, "downtime_ms").value_or(0));
    if (report->is_object()) outcome["transport"] = field(*report, "transport");
  }
  if (swap.out_done || swap.back_done) {
    outcome["total_ms"] = total;
    outcome["downtime_ms"] = downtime;
  }
  if (!swap.out_done || !swap.back_done) {
    fmt::print(stderr, "godwit: node: {} against {} of {}: {}\n", swap.guest, swap.partner,
               swap.peer, reason);
  }
  const Departure departure{
      swap.guest, swap.peer, balancer::Cause::kOverload, swap.leaving.coming, 0, {}, false};
  end_departure(departure, swap.out_end, swap.out, swap.out_why);
  const std::lock_guard lock(mutex_);
  conclude_record(swap.record, outcome);
}

}  // namespace godwit::node
