// One guest of a node: who it is, what its owner said about moving it, its process, and what was
// measured of it. Guarded by the node's lock.
#pragma once

#include <chrono>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "balancer/forecast.h"
#include "node/daemon/guest_process.h"

namespace godwit::node {

/// What the owner of a guest says about moving it; travels with it.
struct Attributes {
  double sensitivity = 1;          // weight of its lost work: 0 is idle batch, 10 a database
  std::vector<std::string> needs;  // capabilities a host must have
  std::string apart;               // at most one of a group on a host
  std::string together;            // never moved away from its group
  bool pinned = false;
};

/// Both throw std::runtime_error naming the field.
Attributes attributes_of(const nlohmann::json& object);
nlohmann::json to_json(const Attributes& attributes);

/// What was learnt of a guest's load, for its next host; false, and nothing is taken, where that is
/// missing or nonsense for so many vCPUs.
nlohmann::json to_json(const balancer::LoadEstimator& load);
bool learn(balancer::LoadEstimator& load, const nlohmann::json& object, unsigned cpus);

/// Groups have names; the balancer compares numbers. 0 is no group.
std::uint32_t group_number(const std::string& name);

struct ManagedGuest {
  explicit ManagedGuest(GuestProcess its) : process(std::move(its)) {}

  std::uint64_t id = 0;  // in this node, for the balancer; never 0, never used again
  std::string name;
  std::string api;  // its control socket
  Attributes attributes;
  GuestProcess process;
  bool hvc = false;  // it has a second console, and that a file wherever it goes

  // Reserved: its place is kept, its process waits for it or is taking it.
  bool reserved = false;
  std::string reservation;
  std::string from;                                // the node it is to come from
  std::chrono::steady_clock::time_point deadline;  // for its move to begin

  /// Of ours, promised in exchange for the guest of this reservation: nothing else may move it.
  std::string promised;
  std::chrono::steady_clock::time_point promise_ends;

  // History, seconds of the node's clock; travels with it as ages.
  double last_move = -1e18;
  double heat = 0;  // recent moves, decaying
  std::string left;

  // Measured.
  std::string state = "starting";
  unsigned cpus = 1;
  double demand = 0;       // cores
  double memory = 0;       // MB
  double memory_used = 0;  // MB
  double dirty_rate = 0;   // MB/s
  double disk_read = 0;    // bytes/s
  double disk_write = 0;   // bytes/s
  double net_receive = 0;  // bytes/s
  double net_send = 0;     // bytes/s
  balancer::LoadEstimator load;
  bool moving = false;       // by this node
  bool gone = false;         // moved away; its process is about to end
  nlohmann::json migration;  // progress of its move, or null
  nlohmann::json counters;   // of the sample before
  std::chrono::steady_clock::time_point counted;

  /// Takes a `GET /v1/load`; whatever it says, the figures stay finite and within its vCPUs.
  void measure(const nlohmann::json& sample, std::chrono::steady_clock::time_point when,
               const balancer::PolicyConfig& policy);
};

}  // namespace godwit::node
