// Room that Node keeps for guests that peers move here: checked, reserved, used or given up.
#include <fmt/format.h>

#include <algorithm>
#include <csignal>
#include <filesystem>
#include <utility>

#include "balancer/rules.h"
#include "node/control_socket.h"
#include "node/daemon/json_fields.h"
#include "node/daemon/node.h"

namespace godwit::node {

using nlohmann::json;
using std::chrono::milliseconds;
using Clock = std::chrono::steady_clock;

namespace {

constexpr milliseconds kGuestListens{20'000};
constexpr milliseconds kPlaceSettles{2000};
constexpr milliseconds kLook{5};

}  // namespace

/// The rules that its own balancer would apply: the peer's view of us may be a second old.
ManagedGuest Node::admit(const json& description, const PlaceTerms& terms) {
  const std::string name = text_in(description, "name").value_or("");
  if (const std::string why = name_complaint(name); !why.empty()) throw BadRequest(why);
  const double now = seconds();
  if (state_ != State::kOpen && state_ != State::kAsleep) {
    throw Conflict(config_.name + " is closed to guests");
  }
  if (state_ == State::kAsleep && sleep_.powering_down) {
    throw Conflict(config_.name + " is powering down");
  }
  if (find(name) != nullptr) throw Conflict(fmt::format("a guest called {} is here already", name));
  if (config_.receive_host.empty()) throw Conflict(config_.name + " listens nowhere");
  ManagedGuest wanted(GuestProcess::adopt(0));
  wanted.name = name;
  wanted.id = next_id_;
  wanted.attributes = attributes_of(field(description, "attributes"));
  know_capabilities(wanted.attributes.needs);
  wanted.hvc = number_in(description, "hvc").value_or(0) != 0;
  wanted.take_description(description, policy_);
  wanted.heat = std::clamp(number_in(description, "recent_moves").value_or(0), 0.0, 100.0) + 1;
  balancer::HostView self = self_view();
  if (self.incoming >= policy_.incoming_limit) {
    throw Busy(fmt::format("{} is taking in as many guests as it may", config_.name));
  }
  if (const ManagedGuest* leaving = find(terms.leaving); leaving != nullptr) {
    balancer::charge(self, guest_view(*leaving, now, {}), -1);
  }
  const balancer::GuestView guest = guest_view(wanted, now, {});
  if (self.memory_used + wanted.memory > self.memory) {
    throw Conflict(
        fmt::format("{} has no memory for it: {}", config_.name, no_memory_for(wanted.memory)));
  }
  if (!balancer::allowed(guest, self)) {
    throw Conflict(
        fmt::format("the rules keep it off {}: {}", config_.name, rule_against(wanted.attributes)));
  }
  if (!terms.forced &&
      !balancer::has_room(balancer::with(self.forecast, guest.forecast), self, policy_)) {
    throw Conflict(fmt::format("{} would be above its threshold with it", config_.name));
  }
  return wanted;
}

/// A process of its own that waits for the guest; under the lock.
ManagedGuest& Node::keep_place(ManagedGuest wanted, const PlaceTerms& terms) {
  const std::string name = wanted.name;
  std::error_code none_yet;
  std::filesystem::remove(log_of(name), none_yet);
  const bool v6 = config_.receive_host.find(':') != std::string::npos;
  const std::string listen = v6 ? "[" + config_.receive_host + "]:0" : config_.receive_host + ":0";
  std::vector<std::string> words{"receive", "--listen", listen, "--name", name};
  add_serve_words(words, name, wanted.hvc);
  ManagedGuest& place = add_guest(name, start_process(name, words));
  wanted.process = place.process;
  wanted.id = place.id;
  wanted.api = place.api;
  wanted.line = place.line;
  wanted.last_move = seconds();
  if (name_complaint(terms.from).empty()) wanted.left = wanted.coming.from = terms.from;
  wanted.coming.record = terms.record;
  wanted.reserved = true;
  wanted.state = "reserved";
  wanted.reservation = fmt::format("{:016x}", random_());
  wanted.deadline = Clock::now() + config_.reservation;
  place = std::move(wanted);
  keep(place);
  return place;
}

/// Blocks, without the lock. The address of a place that was just made.
std::string Node::address_of_place(const std::string& name, const std::string& reservation) {
  for (const auto end = Clock::now() + kGuestListens; Clock::now() < end;) {
    constexpr std::string_view kListening = "listening on ";
    const std::string words = last_words(name);
    if (const auto at = words.find(kListening); at != std::string::npos) {
      return words.substr(at + kListening.size());
    }
    {
      const std::lock_guard lock(mutex_);
      ManagedGuest* guest = find(name);
      if (guest == nullptr || !guest->process.alive()) {
        if (guest != nullptr) forget(name);
        throw Conflict(fmt::format("{} cannot receive it: {}", config_.name, words));
      }
    }
    std::this_thread::sleep_for(milliseconds(10));
  }
  release(reservation);
  throw Conflict(fmt::format("{} cannot receive it: its process does not listen", config_.name));
}

json Node::reserve(const json& request) {
  PlaceTerms terms;
  terms.from = text_in(request, "from").value_or("");
  terms.leaving = text_in(request, "exchange").value_or("");
  terms.forced = number_in(request, "forced").value_or(0) != 0;  // a person asked for it
  terms.record = record_in(request);
  std::string name;
  json answer;
  {
    std::unique_lock lock(mutex_);
    see_off(lock, text_in(field(request, "guest"), "name").value_or(""));
    if (!terms.leaving.empty()) check_promise(terms.leaving);
    const balancer::HostView before = self_view();
    ++counters_["reservations_refused"];  // unless it is kept
    ManagedGuest& place = keep_place(admit(field(request, "guest"), terms), terms);
    --counters_["reservations_refused"];
    name = place.name;
    answer["id"] = place.reservation;
    if (!terms.leaving.empty()) {
      answer["beside"] = before.memory_used + place.memory <= before.memory;
      answer["partner"] = promise(terms.leaving, place.reservation);
    }
  }
  try {
    answer["address"] = address_of_place(name, answer["id"]);
  } catch (const Conflict&) {
    release(answer["id"]);  // the promise, too
    throw;
  }
  return answer;
}

void Node::release(const std::string& reservation) {
  bool ended = false;
  for (const auto end = Clock::now() + kPlaceSettles; Clock::now() < end;) {
    std::string name;
    {
      const std::lock_guard lock(mutex_);
      for (auto& [its, guest] : guests_) {
        if (guest.promised == reservation && !guest.moving) guest.promised.clear();
        if (guest.reserved && guest.reservation == reservation) name = its;
      }
      ManagedGuest* place = find(name);
      if (place == nullptr) return;
      // Once its socket is there the move has begun, and the two processes settle it between them;
      // one that only waits to be asked need not any more.
      const bool over = place->state == "refused" || !socket_is_live(place->api);
      if (over && !std::exchange(ended, true)) {
        place->process.signal(SIGTERM);
      }
    }
    look_after(name);
    std::this_thread::sleep_for(kLook);
  }
}

/// A place that is kept: its guest has come, or will not.
void Node::settle_reservation(ManagedGuest& guest, double now) {
  if (guest.state == "running" || guest.state.starts_with("postcopy")) {
    guest.reserved = false;
    guest.last_move = guest.coming.when = last_arrival_ = now;
    guest.counters = nullptr;
    keep(guest);
    fmt::print(stderr, "godwit: node: {} came from {}\n", guest.name, guest.coming.from);
  } else if (guest.state == "reserved" && Clock::now() > guest.deadline) {
    ++counters_["reservations_expired"];
    guest.deadline = Clock::time_point::max();
    guest.process.signal(SIGTERM);
  }
}

}  // namespace godwit::node
