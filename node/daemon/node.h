// The VMM of a host: keeps its guests (each in a process of its own), measures them and itself,
// asks its peers, lets the balancer decide, and carries out what it decides. Public methods may be
// called from any thread; those said to block do so without the lock.
#pragma once

#include <chrono>
#include <condition_variable>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "balancer/decide.h"
#include "balancer/detection.h"
#include "node/control_client.h"
#include "node/daemon/host_load.h"
#include "node/daemon/managed_guest.h"
#include "node/daemon/node_config.h"
#include "node/daemon/peers.h"
#include "node/daemon/records.h"
#include "node/guest_control.h"

namespace godwit::node {

class Node {
 public:
  /// Adopts the guests whose control sockets answer in the runtime directory. Throws
  /// std::runtime_error when its directories cannot be used.
  Node(NodeConfig config, const std::shared_ptr<const TlsContext>& tls);
  /// Guests live on. A move in flight is its guest's own affair and goes on, too.
  ~Node();
  Node(const Node&) = delete;
  Node& operator=(const Node&) = delete;

  /// The whole of GET /v1/node; `view`: only what a peer needs.
  nlohmann::json status();
  nlohmann::json view();
  nlohmann::json guests();
  const Records& records() const { return records_; }

  /// Starts a guest of docs/api.md's description and waits until it runs. Blocks. Throws BadRequest
  /// and Conflict (guest_control.h), std::runtime_error when it does not start.
  nlohmann::json start(const nlohmann::json& request);
  /// Moves a guest to a peer, by name. Blocks until the move has ended and returns the guest's
  /// report, with "peer".
  /// `settings`: fields of the guest's POST /v1/migrate, but for "to".
  nlohmann::json migrate(const std::string& guest, const std::string& peer,
                         const nlohmann::json& settings);
  /// Closes this node and moves its guests away, by a plan that fits as a whole or is refused
  /// (Conflict) with nothing changed. Returns once the moves have begun. Blocks for the plan.
  nlohmann::json drain();
  /// Opens the node; it is awake, too, if it was asleep.
  void undrain();
  /// A peer needs this node's room. Throws Conflict once it is powering down. Returns {state}.
  nlohmann::json wake();
  /// Until this process ends; what is empty stays. Returns {mode, goal}.
  nlohmann::json set_mode(std::optional<Mode> mode, std::optional<balancer::Goal> goal);

  /// A peer asks for room for a guest that it would move here: {id, address}. Blocks until the
  /// guest's process listens. Throws Conflict with the reason. With "exchange" a guest of ours is
  /// promised for it: also {partner, beside}, its description and whether both fit for a while.
  nlohmann::json reserve(const nlohmann::json& request);
  /// The move was given up. Nothing happens if it has begun or is unknown. A promise ends.
  void release(const std::string& reservation);
  /// Moves the guest that was promised for a reservation to an address of the peer. Blocks until
  /// the move has ended; the guest's report. Throws Conflict when nothing is promised (any more).
  nlohmann::json give_back(const std::string& reservation, const std::string& address);

 private:
  static constexpr std::chrono::milliseconds kReserveTimeout{25'000};
  static constexpr std::chrono::milliseconds kReleaseTimeout{3000};
  static constexpr std::chrono::milliseconds kMoveTimeout =
      std::chrono::hours(24);  // the engine has its own, per move

  struct Move {
    std::string guest, to;
    std::chrono::steady_clock::time_point since;
    std::thread thread;
    bool done = false;
  };
  /// A decision's move whose outcome is to be judged once the loads have settled.
  struct Verdict {
    std::uint64_t record;
    double due;
    double load_before;
  };

  // node_guests.cc
  void adopt();
  void take_back(const std::string& name, const nlohmann::json& status, const nlohmann::json& kept);
  void end_orphans() const;
  void keep(const ManagedGuest& guest) const;
  void forget(const std::string& name);
  void look_after_guests(double now);
  void see_off(std::unique_lock<std::mutex>& lock, const std::string& name);
  ManagedGuest& add_guest(const std::string& name, GuestProcess process);
  ManagedGuest* find(const std::string& name);
  std::string last_words(const std::string& name) const;
  std::string log_of(const std::string& name) const;
  void add_serve_words(std::vector<std::string>& words, const std::string& name, bool hvc) const;

  // node_places.cc
  struct PlaceTerms {
    std::string from;     // the node that asks
    bool forced = false;  // the threshold of the load is not asked
    std::string leaving;  // of our guests, goes in exchange: its room counts as free
  };
  ManagedGuest admit(const nlohmann::json& description, const PlaceTerms& terms);
  ManagedGuest& keep_place(ManagedGuest wanted, const PlaceTerms& terms);
  std::string address_of_place(const std::string& name, const std::string& reservation);
  void settle_reservation(ManagedGuest& guest, double now);

  // node_view.cc
  struct Names {
    std::vector<std::string> hosts;  // by id; 0 is this node
    std::map<std::uint64_t, std::string> guests;
  };
  balancer::HostView self_view() const;
  balancer::GuestView guest_view(const ManagedGuest& guest, double now, const Names& names) const;
  balancer::ClusterView cluster_view(double now, Names& names);
  nlohmann::json host_json();
  nlohmann::json guest_json(const ManagedGuest& guest, double now) const;
  nlohmann::json description_of(const ManagedGuest& guest) const;
  std::uint64_t capability_bits(const std::vector<std::string>& names);

  // node_swap.cc
  struct Swap;
  nlohmann::json offers_json(double now) const;
  std::vector<balancer::GuestView> offers_of(const PeerState& peer, std::uint64_t host, double now,
                                             Names& names);
  void check_promise(const std::string& name);
  nlohmann::json promise(const std::string& name, const std::string& reservation);
  void look_after_promise(ManagedGuest& guest);
  void swap_guests(const std::string& guest, const std::string& peer, const std::string& partner,
                   std::uint64_t record);
  void reserve_both(Swap& swap);
  void release_both(const Swap& swap);
  void send_out(Swap& swap);
  void fetch_back(Swap& swap);
  bool has_come(const std::string& name, const std::string& reservation);
  void conclude_swap(const Swap& swap, std::uint64_t record);

  // node_moves.cc
  void balance(double now);
  std::vector<balancer::Decision> consider(balancer::ClusterView& view);
  std::uint64_t record(const balancer::Decision& decision, const balancer::ClusterView& view,
                       const Names& names);
  void carry_out(const balancer::Decision& decision, std::uint64_t record, const Names& names);
  nlohmann::json move_guest(const std::string& guest, const std::string& peer, std::uint64_t record,
                            nlohmann::json settings);
  void launch(const std::string& guest, const std::string& peer, std::function<void()> move);
  /// What a move of a guest begins with; its socket, its description for the peer.
  struct Leaving {
    std::string api;
    nlohmann::json description;
    double load_before = 0;
  };
  Leaving begin_move(const std::string& guest, const std::string& peer);
  nlohmann::json send(const std::string& api, const nlohmann::json& settings,
                      std::string& why) const;
  void end_move(const std::string& guest, bool completed);
  void conclude_record(std::uint64_t record, const nlohmann::json& outcome, double load_before);
  void judge(double now);
  void run_drain();

  // node_sleep.cc
  struct Sleep {
    std::uint64_t record = 0;
    double announced = 0;
    bool powering_down = false;  // the hook has begun
    double suspended = 0;        // of the machine, before it
    std::optional<std::chrono::steady_clock::time_point> hook_ended;
    double not_before = -1e18;  // after a failure
  };
  enum class Word { kUp, kGoingDown, kSilent };
  bool others_stay_awake() const;
  bool may_sleep(double now);
  void look_after_sleep(double now);
  std::uint64_t record_sleep(double empty);
  void power_down();
  void sleep_failed(const std::string& why);
  void get_up(const std::string& reason);
  bool wake_peer(const std::string& peer, std::uint64_t record);
  bool is_open(const std::string& peer) const;
  Word wake_by_word(const std::string& peer);
  bool may_wake(const PeerState& peer, double now) const;

  void tick();
  void set_closed(bool closed) const;
  double seconds() const;

  const NodeConfig config_;
  Records records_;
  const std::chrono::steady_clock::time_point began_ = std::chrono::steady_clock::now();

  std::mutex mutex_;  // guards all below
  std::condition_variable changed_;
  bool ending_ = false;
  Mode mode_;
  balancer::PolicyConfig policy_;  // of the goal
  enum class State { kOpen, kDraining, kClosed, kAsleep } state_ = State::kOpen;
  std::map<std::string, ManagedGuest> guests_;
  std::uint64_t next_id_ = 1;
  std::list<Move> moves_;
  std::vector<Verdict> verdicts_;
  HostLoad host_load_;
  HostSample host_;
  balancer::OverloadDetector detector_;
  bool hot_ = false;
  std::uint64_t wanted_ = 0;  // bit 0: the newest round wanted to move something
  double last_arrival_ = -1e18;
  double quiet_until_ = 0;
  double empty_since_ = -1;
  double last_tick_ = 1e18;
  Sleep sleep_;
  std::map<std::string, double> no_wake_before_;  // peers that did not wake
  std::map<std::string, unsigned> capability_bits_;
  nlohmann::json last_unchanged_;  // refusal or advice: the same is not recorded every second
  double last_recorded_ = -1e18;
  std::map<std::string, std::uint64_t> counters_;
  std::string drain_trouble_;
  std::mt19937_64 random_{std::random_device{}()};
  std::thread drainer_;
  std::thread sleeper_;
  bool sleep_hook_runs_ = false;  // perhaps longer than the sleep

  Peers peers_;
  std::thread ticker_;  // last: uses all of the above
};

}  // namespace godwit::node
