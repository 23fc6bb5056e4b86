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

enum class Standing {
  kAlive,      // answered of late
  kSilent,     // has answered, and does not any more
  kAsleep,     // silent after it said that it powers down
  kRefused,    // answers, but is not what it should be: name, certificate or version
  kUnreached,  // never answered
};
const char* name(Standing standing);

/// What this node knows of a peer now.
struct PeerState {
  std::string name;
  std::string address;
  Standing standing = Standing::kUnreached;
  bool alive = false;
  bool asleep = false;
  std::string why;      // it is not alive
  double age_s = -1;    // of the answer; negative: never
  nlohmann::json view;  // its answer to GET /v1/view; null if there never was one
};

class Peers {
 public:
  static constexpr std::chrono::milliseconds kTimeout{2000};  // of one question
  static constexpr int kProtocol = 1;                         // of the nodes' API

  Peers(const NodeConfig& config, const std::shared_ptr<const TlsContext>& tls);
  ~Peers();
  Peers(const Peers&) = delete;
  Peers& operator=(const Peers&) = delete;

  /// Of all peers, in the order of the configuration.
  std::vector<PeerState> states() const;
  /// Between two intervals: what it says of itself has changed. Blocks.
  void ask_again(const std::string& name) { ask(peer(name)); }
  /// Every peer that is well has asked this node, as often as this one asks, by then.
  std::chrono::milliseconds heard_within() const { return 3 * interval_; }
  /// Throws std::out_of_range, in words, for what is no peer of ours.
  void require(const std::string& name) const { peer(name); }
  /// A request to one; blocks. Throws ClientError, and as require().
  nlohmann::json request(const std::string& name, const std::string& method,
                         const std::string& target, const nlohmann::json& body,
                         std::chrono::milliseconds timeout) const;

 private:
  struct Peer {
    PeerConfig config;
    std::unique_ptr<NodeClient> client;
    std::chrono::steady_clock::time_point asked, answered;  // of the newest answer
    bool ever = false;
    bool noted_once = false;
    bool misfit = false;  // as of its last answer
    Standing noted = Standing::kUnreached;
    std::string why = "not asked yet";
    nlohmann::json view;
    std::chrono::steady_clock::time_point due;
    bool asking = false;
  };
  Peer& peer(const std::string& name) const;
  void ask_around();
  void ask(Peer& peer);
  void take(Peer& peer, nlohmann::json view, std::chrono::steady_clock::time_point asked) const;
  void recall_sleepers();
  void keep_sleepers() const;
  PeerState state_of(const Peer& peer) const;
  void note_change(Peer& peer) const;

  const std::string sleepers_;  // file: what peers said that sleep
  const std::chrono::milliseconds interval_;
  const std::chrono::milliseconds silence_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  bool ending_ = false;
  std::vector<std::unique_ptr<Peer>> peers_;
  std::vector<std::thread> askers_;
};

}  // namespace godwit::node
