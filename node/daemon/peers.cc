#include "node/daemon/peers.h"

#include <fmt/format.h>

#include <algorithm>
#include <stdexcept>

#include "node/daemon/json_fields.h"

namespace godwit::node {

using nlohmann::json;
using Clock = std::chrono::steady_clock;

namespace {

constexpr std::size_t kMaxAskers = 8;
// A few peers are asked at every interval; many, each more rarely, so that a node's work does not
// grow with the cluster.
constexpr std::size_t kPeersAnInterval = 16;

}  // namespace

Peers::Peers(const NodeConfig& config, const std::shared_ptr<const tls::Context>& tls)
    : interval_(config.interval *
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
  json view;
  std::string why;
  try {
    view = peer.client->request("GET", "/v1/view", nullptr, kTimeout);
  } catch (const std::exception& error) {
    why = error.what();
  }
  const std::lock_guard lock(mutex_);
  if (why.empty()) {
    take(peer, std::move(view));
  } else {
    peer.why = std::move(why);
  }
}

void Peers::take(Peer& peer, json view) const {
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
    peer.view = std::move(view);
    peer.answered = Clock::now();
    peer.ever = true;
  }
}

std::vector<PeerState> Peers::states() const {
  const std::lock_guard lock(mutex_);
  std::vector<PeerState> states;
  for (const auto& peer : peers_) {
    PeerState state{peer->config.name, peer->config.address, false, false, peer->why, -1,
                    peer->view};
    if (peer->ever) {
      const auto age = Clock::now() - peer->answered;
      state.age_s = std::chrono::duration<double>(age).count();
      state.alive = age < silence_ && (peer->why.empty() || age < 2 * interval_);
      if (state.alive) state.why.clear();
    }
    state.asleep = !state.alive && text_in(peer->view, "state") == "asleep";
    states.push_back(std::move(state));
  }
  return states;
}

json Peers::request(const std::string& name, const std::string& method, const std::string& target,
                    const json& body, std::chrono::milliseconds timeout) const {
  for (const auto& peer : peers_) {
    if (peer->config.name == name) return peer->client->request(method, target, body, timeout);
  }
  throw std::out_of_range(fmt::format("{} is no peer of this node", name));
}

}  // namespace godwit::node
