// What a node is told about itself and its peers: `godwit node --config FILE`, a JSON object.
// docs/operations.md lists the keys, their defaults and why.
#pragma once

#include <array>
#include <chrono>
#include <optional>
#include <string>
#include <vector>

#include "balancer/policy.h"
#include "migration/tls/tls.h"

namespace godwit::node {

enum class Mode { kOff, kAdvise, kAutomatic };

struct PeerConfig {
  std::string name;     // what its certificate says, and what it calls itself
  std::string address;  // HOST:PORT of its API
};

struct NodeConfig {
  std::string name;               // of this node, as peers and guests' histories know it
  std::string listen;             // HOST:PORT of the API for peers; empty: no peers can come
  std::string receive_host;       // where guests arrive; the host of `listen` if not given
  std::optional<tls::Files> tls;  // absolute paths: guests' processes read them, too
  std::string transport =
      "auto";             // of moves where nothing else is asked for: "auto", "rdma", "tcp"
  bool compress = false;  // moves by TCP, where that is measured to be faster
  bool rdma_pin = false;  // guests' memory is registered from their start, or their arrival, on
  std::vector<PeerConfig> peers;
  std::string directory;  // what must survive a restart
  std::string runtime;    // control sockets: of guests NAME.sock, of the node node.api

  double cpus = 0;     // cores guests may use; 0: the machine's
  double memory = 0;   // MB for guests; 0: the machine's
  double link = 1250;  // MB/s a move can use
  std::vector<std::string> capabilities;
  std::array<double, 11> power_watts{80, 90, 100, 110, 120, 130, 140, 150, 160, 170, 180};

  Mode mode = Mode::kAutomatic;
  balancer::PolicyConfig policy;                   // of the goal it begins with
  std::array<balancer::PolicyConfig, 2> policies;  // by goal, the file's own keys in each
  std::chrono::milliseconds interval{1000};        // between two measurements
  std::chrono::milliseconds reservation{30'000};   // how long a reserved place waits for its guest
  std::string sleep_hook;                          // run when this node is empty and may power down
  std::string wake_hook;  // run with a sleeping peer's name when it is needed
  std::chrono::milliseconds sleep_after{60'000};    // empty for that long
  std::chrono::milliseconds hook_timeout{60'000};   // of either hook
  std::chrono::milliseconds wake_timeout{300'000};  // until the peer answers

  std::string socket() const { return runtime + "/node.api"; }
};

/// The defaults of the policy for measurements `interval` apart, on a live host.
balancer::PolicyConfig live_policy(balancer::Goal goal, std::chrono::milliseconds interval);

/// Why `peer` cannot be one more of this node's; empty if it can.
std::string peer_complaint(const NodeConfig& config, const PeerConfig& peer);

/// Throws std::runtime_error with one line that names the key at fault.
NodeConfig parse_node_config(const std::string& json);
NodeConfig read_node_config(const std::string& file);
/// Makes what it names. Throws likewise.
void make_directories(const NodeConfig& config);

const char* mode_name(Mode mode);
const char* goal_name(balancer::Goal goal);
/// Empty for a text that is none.
std::optional<Mode> mode_named(const std::string& text);
std::optional<balancer::Goal> goal_named(const std::string& text);

}  // namespace godwit::node
