// What Node knows, as the balancer's plain numbers and as JSON for peers and people.
#include <algorithm>
#include <cmath>
#include <set>

#include "balancer/decide.h"
#include "balancer/rules.h"
#include "node/daemon/json_fields.h"
#include "node/daemon/node.h"

namespace godwit::node {

using balancer::ClusterView;
using balancer::Forecast;
using balancer::GuestView;
using balancer::HostView;
using nlohmann::json;

namespace {

constexpr double kMaxCores = 65536;
// The policy's worths were chosen with CPU in MIPS of CloudSim's hosts: of one core about that
// many.
constexpr double kMipsPerCore = 2500;
constexpr std::size_t kDecisionsShown = 20;

Forecast in_mips(const Forecast& cores) {
  return {cores.mean * kMipsPerCore, cores.variance * kMipsPerCore * kMipsPerCore};
}

void to_mips(GuestView& guest) {
  for (double* cpu : {&guest.demand, &guest.most}) *cpu *= kMipsPerCore;
  guest.forecast = in_mips(guest.forecast);
}

void to_mips(HostView& host) {
  for (double* cpu : {&host.capacity, &host.core, &host.demand}) *cpu *= kMipsPerCore;
  host.forecast = in_mips(host.forecast);
  for (GuestView& offer : host.offers) to_mips(offer);
}

/// MB of a host's memory for guests that none can have: given to others, or not there.
double taken(double memory, double given, double available) {
  return std::max(given, memory - available);
}

json age(double then, double now) {
  return then < -1e17 ? json() : json(std::max(0.0, now - then));
}

double from_age(const json& object, const char* key, double now) {
  const auto value = number_in(object, key);
  return value && *value >= 0 ? now - *value : -1e18;
}

}  // namespace

HostView Node::self_view() const {
  HostView view;
  double run = 0;
  for (const auto& [name, guest] : guests_) {
    if (guest.gone) continue;
    view.demand += guest.demand;
    run += guest.demand;
    view.forecast = balancer::with(view.forecast,
                                   guest.load.forecast(static_cast<double>(guest.cpus), policy_));
    view.guests += 1;
    view.incoming += guest.reserved ? 1 : 0;
    view.outgoing += guest.leaving() ? 1 : 0;
    if (!guest.attributes.apart.empty())
      view.groups.push_back(group_number(guest.attributes.apart));
  }
  // Where the machine is shared with other work, only what that leaves is for guests; a capacity in
  // the configuration is a promise.
  view.capacity = config_.cpus > 0
                      ? config_.cpus
                      : std::max(0.1, host_.cpus - std::max(0.0, host_.cpu_busy - run));
  view.core = 0;
  view.memory = memory_for_guests();
  view.memory_used = taken(view.memory, memory_given(), memory_available());
  view.link = config_.link;
  view.has = capabilities_.bits(config_.capabilities);
  view.power.watts = config_.power_watts;
  view.closed = state_ == State::kDraining || state_ == State::kClosed;
  view.awake = state_ != State::kAsleep;
  view.last_arrival = last_arrival_;
  return view;
}

GuestView Node::guest_view(const ManagedGuest& guest, double now, const Names& names) const {
  GuestView view;
  view.id = guest.id;
  view.demand = guest.demand;
  view.most = static_cast<double>(guest.cpus);
  view.forecast = guest.load.forecast(view.most, policy_);
  view.memory = guest.memory_used;
  view.given = guest.memory;
  view.dirty_rate = guest.dirty_rate;
  view.sensitivity = guest.attributes.sensitivity;
  view.needs = capabilities_.bits(guest.attributes.needs);
  view.keep_apart = group_number(guest.attributes.apart);
  view.keep_together = group_number(guest.attributes.together);
  view.pinned = guest.attributes.pinned || guest.state != "running";
  view.moving = guest.leaving() || guest.reserved || !guest.promised.empty();
  view.last_move = std::min(guest.last_move, now);
  view.recent_moves = static_cast<std::uint32_t>(std::lround(std::min(guest.heat, 64.0)));
  const auto left = std::find(names.hosts.begin(), names.hosts.end(), guest.left);
  if (!guest.left.empty() && left != names.hosts.end()) {
    view.left = static_cast<std::uint64_t>(left - names.hosts.begin());
  }
  return view;
}

namespace {
/// A peer's answer, taken at its word as far as it is possible; rules.h refuses the rest.
HostView peer_view(const PeerState& peer, std::uint64_t id, double now, const Capabilities& known) {
  const json& host = field(peer.view, "host");
  const auto number = [&](const char* key) { return number_in(host, key).value_or(NAN); };
  HostView view;
  view.id = id;
  view.capacity = number("capacity");
  if (view.capacity > kMaxCores) view.capacity = NAN;
  view.memory = number("memory");
  view.memory_used = taken(view.memory, number("memory_used"),
                           number_in(host, "memory_available").value_or(view.memory));
  view.link = number("link");
  view.demand = number("demand");
  view.forecast = {number_in(field(host, "forecast"), "mean").value_or(NAN),
                   number_in(field(host, "forecast"), "variance").value_or(NAN)};
  view.guests =
      static_cast<std::size_t>(std::clamp(number_in(host, "guests").value_or(0), 0.0, 1e6));
  std::vector<std::string> capabilities;
  for (const json& item : list_in(host, "capabilities")) {
    if (item.is_string() && capabilities.size() < 64)
      capabilities.push_back(item.get<std::string>());
  }
  view.has = known.bits(capabilities);
  for (const json& item : list_in(host, "apart")) {
    if (item.is_string()) view.groups.push_back(group_number(item.get<std::string>()));
  }
  const json& watts = list_in(host, "power_watts");
  for (std::size_t i = 0; i < view.power.watts.size() && i < watts.size(); ++i) {
    view.power.watts[i] = watts[i].is_number() ? watts[i].get<double>() : 0;
  }
  view.incoming = static_cast<int>(std::clamp(number_in(host, "incoming").value_or(0), 0.0, 1e3));
  view.outgoing = static_cast<int>(std::clamp(number_in(host, "outgoing").value_or(0), 0.0, 1e3));
  view.last_arrival = from_age(host, "last_arrival_age_s", now);
  const std::string state = text_in(peer.view, "state").value_or("");
  view.alive = peer.alive || peer.asleep;
  view.awake = !peer.asleep && state != "asleep";
  view.closed = state != "open" && state != "asleep";
  return view;
}

}  // namespace

/// What decide() gets; its CPU is in MIPS, everywhere else it is in cores.
ClusterView Node::cluster_view(double now, Names& names, const std::string& only) {
  ClusterView view;
  view.now = now;
  names.hosts = {config_.name};
  const std::vector<PeerState> peers = peers_.states();
  for (const PeerState& peer : peers) names.hosts.push_back(peer.name);
  view.self = self_view();
  view.drain = state_ == State::kDraining;
  view.hot = hot_;
  view.rise = rise_.per_second() * kMipsPerCore;
  view.boot = config_.wake_hook.empty() ? 0 : boot_seconds_;
  for (const auto& [name, guest] : guests_) {
    names.guests[guest.id] = name;
    if (!guest.reserved && !guest.gone) view.guests.push_back(guest_view(guest, now, names));
  }
  std::vector<std::size_t> chosen;
  for (std::size_t i = 0; i < peers.size(); ++i) {
    if (!only.empty() && peers[i].name != only) continue;
    const auto reluctant = reluctant_.find(peers[i].name);
    if (!view.drain && only.empty() && reluctant != reluctant_.end() &&
        now < reluctant->second.until) {
      continue;
    }
    const bool sleeps = text_in(peers[i].view, "state") == "asleep";
    if (sleeps ? may_wake(peers[i], now) : peers[i].alive) chosen.push_back(i);
  }
  // A few at random, unless the whole host has to be emptied.
  std::shuffle(chosen.begin(), chosen.end(), random_);
  if (!view.drain) {
    chosen.resize(std::min(chosen.size(), static_cast<std::size_t>(policy_.peers_asked)));
  }
  for (const std::size_t i : chosen) {
    HostView& peer = view.peers.emplace_back(peer_view(peers[i], i + 1, now, capabilities_));
    const MovePath path = paths_.to(peers[i].name);
    peer.path = path.rate;
    peer.setup = path.setup;
    peer.offers = offers_of(peers[i], i + 1, now, names);
  }
  to_mips(view.self);
  for (GuestView& guest : view.guests) to_mips(guest);
  for (HostView& peer : view.peers) to_mips(peer);
  return view;
}

/// Of what decide() says; its benefit and cost are in MIPS x seconds.
balancer::Decision Node::in_core_seconds(balancer::Decision decision) {
  decision.benefit /= kMipsPerCore;
  decision.cost /= kMipsPerCore;
  return decision;
}

/// Cores that this host's guests ask for by the time that another could be woken.
double Node::expected(const HostView& self) const {
  ClusterView view;
  view.self = self;
  view.rise = rise_.per_second();
  view.boot = boot_seconds_;
  for (const auto& [name, guest] : guests_) {
    if (!guest.gone) view.guests.emplace_back().most = static_cast<double>(guest.cpus);
  }
  return balancer::expected_at_boot(view);
}

json Node::host_json() {
  const double now = seconds();
  const HostView self = self_view();
  json apart = json::array();
  std::set<std::string> together;
  for (const auto& [name, guest] : guests_) {
    if (!guest.attributes.apart.empty()) apart.push_back(guest.attributes.apart);
    if (!guest.attributes.together.empty()) together.insert(guest.attributes.together);
  }
  const auto share = [](const std::optional<Pressure>& pressure) {
    return pressure ? json(pressure->avg10) : json();
  };
  return {{"capacity", self.capacity},
          {"memory", self.memory},
          {"memory_used", memory_given()},
          {"memory_available", std::min(self.memory - self.memory_used, memory_available())},
          {"link", self.link},
          {"demand", self.demand},
          {"forecast", {{"mean", self.forecast.mean}, {"variance", self.forecast.variance}}},
          {"expected", expected(self)},
          {"guests", self.guests},
          {"capabilities", config_.capabilities},
          {"apart", apart},
          {"together", together},
          {"offers", offers_json(now)},
          {"incoming", self.incoming},
          {"outgoing", self.outgoing},
          {"hot", hot_},
          {"last_arrival_age_s", age(last_arrival_, now)},
          {"cpu_busy", host_.cpu_busy},
          {"psi",
           {{"cpu", share(host_.cpu_pressure)},
            {"memory", share(host_.memory_pressure)},
            {"io", share(host_.io_pressure)}}},
          {"network_rx_bytes_per_s", host_.network_rx_bytes_per_s},
          {"network_tx_bytes_per_s", host_.network_tx_bytes_per_s},
          {"power_watts", config_.power_watts}};
}

json Node::guest_json(const ManagedGuest& guest, double now) const {
  const Forecast forecast = guest.load.forecast(static_cast<double>(guest.cpus), policy_);
  return {{"name", guest.name},
          {"state", guest.state},
          {"pid", guest.process.pid()},
          {"cpus", guest.cpus},
          {"demand", guest.demand},
          {"forecast", {{"mean", forecast.mean}, {"variance", forecast.variance}}},
          {"cpu_run_s", number_in(guest.counters, "cpu_run_ns").value_or(0) / 1e9},
          {"cpu_wait_s", number_in(guest.counters, "cpu_wait_ns").value_or(0) / 1e9},
          {"memory", guest.memory},
          {"memory_used", guest.memory_used},
          {"dirty_rate", guest.dirty_rate},
          {"disk_read_bytes_per_s", guest.disk_read},
          {"disk_write_bytes_per_s", guest.disk_write},
          {"net_receive_bytes_per_s", guest.net_receive},
          {"net_send_bytes_per_s", guest.net_send},
          {"sensitivity", guest.attributes.sensitivity},
          {"needs", guest.attributes.needs},
          {"apart", guest.attributes.apart},
          {"together", guest.attributes.together},
          {"pinned", guest.attributes.pinned},
          {"last_move_age_s", age(guest.last_move, now)},
          {"recent_moves", guest.heat},
          {"left", guest.left},
          {"hvc", guest.hvc},
          {"migration", guest.migration}};
}

/// For the node that it goes to.
json Node::description_of(const ManagedGuest& guest) const {
  json description = guest_json(guest, seconds());
  description["attributes"] = to_json(guest.attributes);
  description["samples"] = guest.load.samples();
  return description;
}

/// In flight from and to here, whoever began them.
json Node::moves_json() const {
  json list = json::array();
  for (const auto& [name, guest] : guests_) {
    if (guest.leaving()) {
      json one = guest.migration.is_object() ? guest.migration : json::object();
      one.update({{"guest", name}, {"from", config_.name}});
      if (!guest.going.to.empty()) one["to"] = guest.going.to;
      list.push_back(std::move(one));
    } else if (guest.reserved && guest.state == "arriving") {
      list.push_back({{"guest", name},
                      {"from", guest.coming.from},
                      {"to", config_.name},
                      {"phase", "arriving"}});
    }
  }
  return list;
}

json Node::view() {
  const std::lock_guard lock(mutex_);
  constexpr const char* kStates[] = {"open", "draining", "closed", "asleep"};
  return {{"name", config_.name},
          {"version", GODWIT_VERSION},
          {"protocol", Peers::kProtocol},
          {"goal", goal_name(policy_.goal)},
          {"mode", mode_name(mode_)},
          {"state", kStates[static_cast<int>(state_)]},
          {"uptime_s",
           std::chrono::duration<double>(std::chrono::steady_clock::now() - began_).count()},
          {"host", host_json()}};
}

json Node::guests() {
  const std::lock_guard lock(mutex_);
  json list = json::array();
  for (const auto& [name, guest] : guests_) {
    if (!guest.gone) list.push_back(guest_json(guest, seconds()));
  }
  return list;
}

json Node::status() {
  json status = view();
  const auto left = certificate_left();
  status["certificate_left_s"] = left ? json(*left) : json();
  status["guests"] = guests();
  status["peers"] = json::array();
  for (const PeerState& peer : peers_.states()) {
    const json& host = field(peer.view, "host");
    status["peers"].push_back({{"name", peer.name},
                               {"address", peer.address},
                               {"state", name(peer.standing)},
                               {"why", peer.why},
                               {"age_s", peer.age_s < 0 ? json() : json(peer.age_s)},
                               {"capacity", field(host, "capacity")},
                               {"demand", field(host, "demand")},
                               {"forecast", field(field(host, "forecast"), "mean")},
                               {"memory", field(host, "memory")},
                               {"memory_used", field(host, "memory_used")},
                               {"guests", field(host, "guests")},
                               {"hot", field(host, "hot")},
                               {"closed", text_in(peer.view, "state").value_or("open") != "open"}});
  }
  const double unix_now =
      std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
  status["decisions"] = json::array();
  for (const json& record : records_.newest(kDecisionsShown)) {
    status["decisions"].push_back(
        {{"id", record["id"]},
         {"age_s", std::max(0.0, unix_now - number_in(record, "time").value_or(0))},
         {"text", text_in(record, "text").value_or("")}});
  }
  const std::lock_guard lock(mutex_);
  status["moves"] = moves_json();
  json counters{{"decisions", records_.count()}};
  for (const char* key : {"moves_completed", "moves_failed", "moves_undone", "refusals",
                          "reservations_expired", "reservations_refused"}) {
    counters[key] = counters_[key];
  }
  counters["moves"] = finished_.to_json();
  status["counters"] = counters;
  status["drain"] = {{"guests", drain_.guests}, {"moved", drain_.moved}};
  status["drain_trouble"] = drain_.trouble;
  return status;
}

}  // namespace godwit::node
