#include "node/daemon/peers.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <stdexcept>
#include <utility>

#include "node/daemon/json_fields.h"

namespace godwit::node {

using nlohmann::json;
using Clock = std::chrono::steady_clock;

namespace {

constexpr std::size_t kMaxAskers = 8;
// A few peers are asked at every interval; many, each more rarely, so that a node's work does not
// grow with the cluster.
constexpr std::size_t kPeersAnInterval = 16;

bool sleeps(const json& view) { return text_in(view, "state") == "asleep"; }

}  // namespace

const char* name(Standing standing) {
  switch (standing) {
    case Standing::kAlive:
      return "alive";
    case Standing::kSilent:
      return "silent";
    case Standing::kAsleep:
      return "asleep";
    case Standing::kRefused:
      return "refused";
    case Standing::kUnreached:
      break;
  }
  return "unreached";
}

Peers::Peers(const NodeConfig& config, const std::shared_ptr<const TlsContext>& tls)
    : sleepers_(config.directory + "/asleep.json"),
      interval_(config.interval *
                std::max<std::size_t>(
                    1, (config.peers.size() + kPeersAnInterval - 1) / kPeersAnInterval)),
      silence_(3 * interval_ + kTimeout) {
  for (const PeerConfig& peer : config.peers) {
    auto entry = std::make_unique<Peer>();
    entry->config = peer;
    entry->client = std::make_unique<NodeClient>(peer.address, tls, tls ? peer.name : "");
    entry->due = Clock::now();
    peers_.push_back(std::move(entry));
  }
  recall_sleepers();
  for (std::size_t i = 0; i < std::min(kMaxAskers, peers_.size()); ++i) {
    askers_.emplace_back([this] { ask_around(); });
  }
}

Peers::~Peers() {
  {
    const std::lock_guard lock(mutex_);
    ending_ = true;
  }
  changed_.notify_all();
  for (std::thread& asker : askers_) asker.join();
}

void Peers::ask_around() {
  std::unique_lock lock(mutex_);
  while (!ending_) {
    Peer* next = nullptr;
    for (const auto& peer : peers_) {
      if (!peer->asking && (next == nullptr || peer->due < next->due)) next = peer.get();
    }
    if (next == nullptr || next->due > Clock::now()) {
      changed_.wait_until(lock, next == nullptr ? Clock::now() + interval_ : next->due);
      continue;
    }
    next->asking = true;
    next->due = std::max(next->due + interval_, Clock::now() + interval_ / 2);
    lock.unlock();
    ask(*next);
    lock.lock();
    next->asking = false;
  }
}

void Peers::ask(Peer& peer) {
  const auto asked = Clock::now();
  json view;
  std::string why;
  bool misfit = false;
  try {
    view = peer.client->request("GET", "/v1/view", nullptr, kTimeout);
  } catch (const ClientError& error) {
    why = error.what();
    misfit = error.kind() == ClientError::Kind::kCertificate ||
             error.kind() == ClientError::Kind::kNotOurs;
  } catch (const std::exception& error) {
    why = error.what();
  }
  const std::lock_guard lock(mutex_);
  if (why.empty()) {
    take(peer, std::move(view), asked);
  } else {
    peer.misfit = misfit;
    peer.why = std::move(why);
  }
  note_change(peer);
}

/// In the journal. Under the lock.
void Peers::note_change(Peer& peer) const {
  const PeerState now = state_of(peer);
  const bool first = peer.noted == Standing::kUnreached && !std::exchange(peer.noted_once, true);
  if (now.standing == peer.noted && !first) return;
  peer.noted = now.standing;
  fmt::print(stderr, "godwit: node: peer {} is {}{}{}\n", now.name, name(now.standing),
             now.why.empty() ? "" : ": ", now.why);
}

void Peers::take(Peer& peer, json view, Clock::time_point asked) const {
  if (asked < peer.asked) return;  // it was asked again meanwhile, and answered that first
  const double protocol = number_in(view, "protocol").value_or(0);
  const std::string name = text_in(view, "name").value_or("");
  if (protocol != kProtocol) {
    peer.why = fmt::format(
        "it speaks version {} of the nodes' protocol, this node {}: bring both to "
        "the same version",
        protocol, kProtocol);
  } else if (name != peer.config.name) {
    peer.why =
        fmt::format("it calls itself {}, the configuration calls it {}", name, peer.config.name);
  } else {
    peer.why.clear();
    const bool changed = sleeps(peer.view) != sleeps(view);
    peer.view = std::move(view);
    peer.asked = asked;
    peer.answered = Clock::now();
    peer.ever = true;
    if (changed) keep_sleepers();
  }
  peer.misfit = !peer.why.empty();
}

/// A peer that sleeps says nothing: a node that begins would take it for dead.
void Peers::recall_sleepers() {
  std::ifstream file(sleepers_);
  const json views = json::parse(file, nullptr, false);
  for (const auto& peer : peers_) peer->view = field(views, peer->config.name.c_str());
}

/// Under the lock.
void Peers::keep_sleepers() const {
  json views = json::object();
  for (const auto& peer : peers_) {
    if (sleeps(peer->view)) views[peer->config.name] = peer->view;
  }
  std::ofstream(sleepers_ + ".new") << views.dump(-1, ' ', false, json::error_handler_t::replace);
  std::error_code ignored;
  std::filesystem::rename(sleepers_ + ".new", sleepers_, ignored);
}

/// Under the lock.
PeerState Peers::state_of(const Peer& peer) const {
  PeerState state;
  state.name = peer.config.name;
  state.address = peer.config.address;
  state.view = peer.view;
  state.why = peer.why;
  if (peer.ever) {
    const auto age = Clock::now() - peer.answered;
    state.age_s = std::chrono::duration<double>(age).count();
    state.alive = age < silence_ && (peer.why.empty() || age < 2 * interval_);
    if (state.alive) state.why.clear();
  }
  state.asleep = !state.alive && sleeps(peer.view);
  state.standing = state.alive    ? Standing::kAlive
                   : state.asleep ? Standing::kAsleep
                   : peer.misfit  ? Standing::kRefused
                   : peer.ever    ? Standing::kSilent
                                  : Standing::kUnreached;
  return state;
}

std::vector<PeerState> Peers::states() const {
  const std::lock_guard lock(mutex_);
  std::vector<PeerState> states;
  for (const auto& peer : peers_) states.push_back(state_of(*peer));
  return states;
}

Peers::Peer& Peers::peer(const std::string& name) const {
  for (const auto& peer : peers_) {
    if (peer->config.name == name) return *peer;
  }
  throw std::out_of_range(fmt::format("{} is no peer of this node", name));
}

json Peers::request(const std::string& name, const std::string& method, const std::string& target,
                    const json& body, std::chrono::milliseconds timeout) const {
  return peer(name).client->request(method, target, body, timeout);
}

}  // namespace godwit::node
