// One guest of a node: who it is, what its owner said about moving it, its process, and what was
// measured of it. Guarded by the node's lock.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "balancer/forecast.h"
#include "node/daemon/guest_process.h"
#include "node/daemon/node_client.h"

namespace godwit::node {

constexpr std::chrono::milliseconds kGuestAnswers{1000};

/// GET of a guest's API. Blocks for kGuestAnswers at most; throws ClientError.
inline nlohmann::json ask_guest(const NodeClient& guest, const char* target) {
  return guest.request("GET", target, nullptr, kGuestAnswers);
}

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

/// Groups have names; the balancer compares numbers. 0 is no group.
std::uint32_t group_number(const std::string& name);

struct ManagedGuest {
  explicit ManagedGuest(GuestProcess its) : process(its) {}

  std::uint64_t id = 0;  // in this node, for the balancer; never 0, never used again
  std::string name;
  std::string api;                         // its control socket
  std::shared_ptr<const NodeClient> line;  // to it, for the questions of every round
  Attributes attributes;
  GuestProcess process;
  bool hvc = false;  // it has a second console, and that a file wherever it goes

  // Reserved: its place is kept, its process waits for it or is taking it.
  bool reserved = false;
  std::string reservation;
  std::chrono::steady_clock::time_point deadline;  // for its move to begin

  /// Of ours, promised in exchange for the guest of this reservation: nothing else may move it.
  std::string promised;
  std::chrono::steady_clock::time_point promise_ends;

  /// How it came, if it came from another node.
  struct Coming {
    std::string from;
    std::uint64_t record = 0;  // there, of the decision that moved it; 0: it was no decision's
    double when = -1e18;       // seconds of the node's clock
  };
  Coming coming;
  /// Where this node moves it.
  struct Going {
    std::string to, address;   // the node, and there the process that waits for it
    std::uint64_t record = 0;  // of the move
  };
  Going going;

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
  bool unattended = false;   // begun by an earlier node: nobody waits for its report
  bool gone = false;         // moved away; its process is about to end
  nlohmann::json migration;  // progress of its move, or null
  nlohmann::json counters;   // of the sample before
  std::chrono::steady_clock::time_point counted;

  /// It moves away, by this node or by itself.
  bool leaving() const { return !gone && (moving || state == "migrating"); }

  /// Takes its "cpus" and "memory" (MB), which never change.
  void take_size(const nlohmann::json& description);
  /// Takes what another node measured of it, or this one before it began anew; whatever it says, as
  /// below.
  void take_description(const nlohmann::json& description, const balancer::PolicyConfig& policy);
  /// Takes a `GET /v1/load`; whatever it says, the figures stay finite and within its vCPUs. Of a
  /// place its state only: the process that waits has no load yet, the guest has.
  void measure(const nlohmann::json& sample, std::chrono::steady_clock::time_point when,
               const balancer::PolicyConfig& policy);
};

}  // namespace godwit::node
