// The other nodes: asks each what it has and does, and knows which answer. No master: every node
// asks for itself. Any thread; asking blocks a thread of its own, never the caller.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <vector>

#include "node/daemon/node_client.h"
#include "node/daemon/node_config.h"

namespace godwit::node {

/// What this node knows of a peer now.
struct PeerState {
  std::string name;
  std::string address;
  bool alive = false;   // answered within kSilence
  bool asleep = false;  // said that it powers down
  std::string why;      // it is not alive
  double age_s = -1;    // of the answer; negative: never
  nlohmann::json view;  // its answer to GET /v1/view; null if there never was one
};

class Peers {
 public:
  static constexpr std::chrono::milliseconds kTimeout{2000};  // of one question
  static constexpr int kProtocol = 1;                         // of the nodes' API

  Peers(const NodeConfig& config, const std::shared_ptr<const tls::Context>& tls);
  ~Peers();
  Peers(const Peers&) = delete;
  Peers& operator=(const Peers&) = delete;

  /// Of all peers, in the order of the configuration.
  std::vector<PeerState> states() const;
  /// Every peer that is well has asked this node, as often as this one asks, by then.
  std::chrono::milliseconds heard_within() const { return 3 * interval_; }
  /// A request to one; blocks. Throws ClientError; std::out_of_range for no peer of ours.
  nlohmann::json request(const std::string& name, const std::string& method,
                         const std::string& target, const nlohmann::json& body,
                         std::chrono::milliseconds timeout) const;

 private:
  struct Peer {
    PeerConfig config;
    std::unique_ptr<NodeClient> client;
    std::chrono::steady_clock::time_point answered;
    bool ever = false;
    std::string why = "not asked yet";
    nlohmann::json view;
    std::chrono::steady_clock::time_point due;
    bool asking = false;
  };
  void ask_around();
  void ask(Peer& peer);
  void take(Peer& peer, nlohmann::json view) const;

  const std::chrono::milliseconds interval_;
  const std::chrono::milliseconds silence_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  bool ending_ = false;
  std::vector<std::unique_ptr<Peer>> peers_;
  std::vector<std::thread> askers_;
};

}  // namespace godwit::node
