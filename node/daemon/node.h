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
#include <optional>
#include <random>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "balancer/decide.h"
#include "balancer/detection.h"
#include "node/control_client.h"
#include "node/daemon/capabilities.h"
#include "node/daemon/guest_groups.h"
#include "node/daemon/host_load.h"
#include "node/daemon/managed_guest.h"
#include "node/daemon/move_paths.h"
#include "node/daemon/move_stats.h"
#include "node/daemon/node_config.h"
#include "node/daemon/peers.h"
#include "node/daemon/records.h"
#include "node/daemon/rise.h"
#include "node/daemon/turn.h"
#include "node/guest_control.h"
#include "vmm/sys/unique_fd.h"

namespace godwit::node {

class Node {
 public:
  /// Adopts the guests whose control sockets answer in the runtime directory. Throws
  /// std::runtime_error when its directories cannot be used.
  Node(NodeConfig config, const std::shared_ptr<const tls::Context>& tls);
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
  /// What GET /v1/guests has of one, and in "status" its own; null if it does not answer. Blocks.
  /// Both throw std::out_of_range when there is no such guest.
  nlohmann::json guest(const std::string& name);
  /// Presses its power button, or ends it, even if it does not answer. Blocks. Throws Conflict.
  void stop(const std::string& name, bool force);
  /// Moves a guest to a peer, by name. Blocks until the move has ended and returns the guest's
  /// report, with "peer".
  /// `settings`: fields of the guest's POST /v1/migrate, but for "to".
  nlohmann::json migrate(const std::string& guest, const std::string& peer,
                         const nlohmann::json& settings);
  /// Closes this node and moves its guests away, by a plan that fits as a whole or is refused
  /// (Conflict) with nothing changed. Returns once the moves have begun. Blocks for the plan.
  nlohmann::json drain();
  /// Opens the node; it is awake, too, if it was asleep. Returns {name, state}.
  nlohmann::json undrain();
  /// A peer needs this node's room. Throws Conflict once it is powering down. Returns {state}.
  nlohmann::json wake();
  /// Until this process ends; what is empty stays. Returns {mode, goal}.
  nlohmann::json set_mode(std::optional<Mode> mode, std::optional<balancer::Goal> goal);

  /// A peer asks for room for a guest that it would move here: {id, address}. Blocks until the
  /// guest's process listens. Throws Conflict with the reason. With "exchange" a guest of ours is
  /// promised for it: also {partner, beside}, its description and whether both fit for a while.
  nlohmann::json reserve(const nlohmann::json& request);
  /// The move is over, or was given up: the place is a guest from now on, or free. Blocks until it
  /// is, for two seconds at most: a move that is still under way goes on. A promise ends.
  void release(const std::string& reservation);
  /// Moves the guest that was promised for a reservation to an address of the peer. Blocks until
  /// the move has ended; the guest's report. Throws Conflict when nothing is promised (any more).
  nlohmann::json give_back(const std::string& reservation, const std::string& address);
  /// A peer had to move on what a decision of this node had moved there: {guest, record, to,
  /// after_s}. Throws std::out_of_range.
  nlohmann::json undone(const nlohmann::json& request);

 private:
  static constexpr const char* kWorkUnit = "core-seconds";
  static constexpr std::chrono::milliseconds kReserveTimeout{25'000};
  static constexpr std::chrono::milliseconds kReleaseTimeout{3000};
  static constexpr std::chrono::milliseconds kMoveTimeout =
      std::chrono::hours(24);  // the engine has its own, per move

  struct Move {
    std::string guest, to;
    std::chrono::steady_clock::time_point since;
    std::thread thread;
    bool done = false;
    bool in_doubt = false;  // over, as far as this node can help
  };
  /// A decision's move whose outcome is to be judged once the loads have settled.
  struct Verdict {
    std::uint64_t record;
    double due;
    std::set<std::uint64_t> guests;  // that are here then, if nobody else comes or goes
  };

  // node_adopt.cc
  void keep(const ManagedGuest& guest) const;
  void adopt();
  void take_back(const std::string& name, const nlohmann::json& status, const nlohmann::json& kept);
  void end_orphans();
  nlohmann::json last_report(const std::string& name, const std::string& address) const;
  void settle_unattended(ManagedGuest& guest, const nlohmann::json& migration);
  void conclude_unattended(const std::string& name, std::uint64_t record,
                           const nlohmann::json& report);

  // node_guests.cc
  void forget(const std::string& name);
  struct Answer;
  static Answer ask_for_load(const NodeClient& guest, bool moving);
  void look_after_guests(double now);
  void look_after(const std::string& name);
  void take_answer(const std::string& name, std::uint64_t id, const Answer& answer, double now);
  void see_off(std::unique_lock<std::mutex>& lock, const std::string& name);
  GuestProcess start_process(const std::string& name, const std::vector<std::string>& words);
  ManagedGuest& add_guest(const std::string& name, GuestProcess process);
  ManagedGuest* find(const std::string& name);
  std::string last_words(const std::string& name) const;
  std::string log_of(const std::string& name) const;
  void add_serve_words(std::vector<std::string>& words, const std::string& name, bool hvc) const;

  // node_one_guest.cc
  std::string socket_of_guest(const std::string& name, nlohmann::json& looked_at);

  // node_places.cc
  struct PlaceTerms {
    std::string from;          // the node that asks
    bool forced = false;       // the threshold of the load is not asked
    std::string leaving;       // of our guests, goes in exchange: its room counts as free
    std::uint64_t record = 0;  // of the decision, there
  };
  ManagedGuest admit(const nlohmann::json& description, const PlaceTerms& terms);
  ManagedGuest& keep_place(ManagedGuest wanted, const PlaceTerms& terms);
  std::string address_of_place(const std::string& name, const std::string& reservation);
  void settle_reservation(ManagedGuest& guest, double now);

  // node_view.cc
  struct Names {
    std::vector<std::string> hosts;  // by id; 0 is this node
    std::map<std::uint64_t, std::string> guests;

    std::string host(std::uint64_t id) const { return id < hosts.size() ? hosts[id] : "?"; }
    std::string guest(std::uint64_t id) const {  // empty for none
      const auto found = guests.find(id);
      return found == guests.end() ? "" : found->second;
    }
  };
  balancer::HostView self_view() const;
  double expected(const balancer::HostView& self) const;
  balancer::GuestView guest_view(const ManagedGuest& guest, double now, const Names& names) const;
  /// `only`: the one peer that is looked at.
  balancer::ClusterView cluster_view(double now, Names& names, const std::string& only = {});
  static balancer::Decision in_core_seconds(balancer::Decision decision);
  nlohmann::json host_json();
  nlohmann::json guest_json(const ManagedGuest& guest, double now) const;
  nlohmann::json description_of(const ManagedGuest& guest) const;
  nlohmann::json moves_json() const;

  // node_room.cc
  double memory_for_guests() const;
  double memory_given() const;
  double memory_available() const;
  std::string no_memory_for(double memory) const;
  void know_capabilities(const std::vector<std::string>& words);
  std::string rule_against(const Attributes& wanted) const;
  std::string group_elsewhere(const Attributes& wanted) const;
  std::string room_elsewhere(const ManagedGuest& wanted);

  // node_record.cc
  static std::string in_words(const balancer::Decision& decision, const Names& names);
  nlohmann::json guest_figures(const balancer::ClusterView& view, const Names& names) const;
  nlohmann::json entry_of(const balancer::Decision& decided, const balancer::ClusterView& view,
                          const Names& names) const;
  bool is_news(const balancer::Decision& decision, const Names& names, double now);
  std::uint64_t record(const balancer::Decision& decision, const balancer::ClusterView& view,
                       const Names& names);

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
  void settle_both(const Swap& swap);
  void send_out(Swap& swap);
  void fetch_back(Swap& swap);
  bool has_come(const std::string& name, const std::string& reservation);
  void conclude_swap(const Swap& swap);

  // node_moves.cc
  void balance(double now);
  std::vector<balancer::Decision> consider(balancer::ClusterView& view);
  void carry_out(const balancer::Decision& decision, std::uint64_t record, const Names& names);
  void launch(const std::string& guest, const std::string& peer, std::function<void()> move);
  /// What a move of a guest begins with; its description for the peer.
  struct Leaving {
    nlohmann::json description;
    ManagedGuest::Coming coming;
  };
  Leaving begin_move(const std::string& guest, const std::string& to);
  void check_outgoing(const std::string& guest) const;
  nlohmann::json send(const std::string& guest, const ManagedGuest::Going& going,
                      nlohmann::json settings, std::string& why);
  bool moves_are_under_way() const;

  // node_departures.cc
  /// Why a guest moves, and the record of that: a decision's was made with it, of a person's wish
  /// or a step of a drain it is made once the peer has kept a place, or refused.
  struct Errand {
    balancer::Cause cause;
    std::uint64_t record;  // 0: none yet
    nlohmann::json entry;  // for it
  };
  nlohmann::json move_guest(const std::string& guest, const std::string& peer, Errand errand,
                            nlohmann::json settings);
  enum class End {
    kMoved,
    kFailed,    // it began, or the peer said no
    kNotBegun,  // the peer cannot be asked
    kBusy,      // it says: not now
  };
  static End end_of(const ClientError& refusal);
  void end_move(const std::string& guest, End end);
  struct Departure {
    std::string guest, peer;
    balancer::Cause cause = balancer::Cause::kNone;
    ManagedGuest::Coming coming;
    std::uint64_t record = 0;
    std::string place;  // reservation at the peer, to be given up
    bool dry_run = false;
  };
  void end_departure(const Departure& departure, End end, const nlohmann::json& report,
                     const std::string& why);
  void await_settlement(const Departure& departure);
  void hold_off(const std::string& peer);
  void release_at(const std::string& peer, const std::string& reservation);

  // node_drain.cc
  struct Drain {
    std::size_t guests = 0;                          // when it began
    nlohmann::json moved = nlohmann::json::array();  // {guest, to, total_ms}, as they went
    std::string trouble;                             // what it is waiting for, or how it ended
    double since = 0;                                // nothing has got on
  };
  struct DrainStep {
    enum class What { kWait, kWake, kMove } what = What::kWait;
    std::string guest, to;
    nlohmann::json entry;  // for its record
  };
  void await_known_guests(std::unique_lock<std::mutex>& lock);
  void check_drainable() const;
  std::string drain_obstacle(const balancer::Decision& refusal, const balancer::ClusterView& view,
                             const Names& names) const;
  std::string against(const ManagedGuest& guest, const PeerState& peer, std::uint64_t id,
                      const balancer::ClusterView& view) const;
  void begin_drain();
  void run_drain();
  std::optional<DrainStep> next_step();
  void drain_one(const DrainStep& step);
  void end_drain(const std::string& how);
  void say_of_drain(const std::string& trouble);
  void set_door() const;
  void look_at_door();

  // node_outcome.cc
  static nlohmann::json outcome_of(const nlohmann::json& report, const std::string& why);
  std::set<std::uint64_t> ids() const;
  void conclude_record(std::uint64_t record, const nlohmann::json& outcome);
  void judge(double now);
  void close_records();
  void note_undone(const std::string& guest, const ManagedGuest::Coming& coming,
                   const std::string& to);

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
  double boot_seconds() const;
  bool is_open(const std::string& peer) const;
  Word wake_by_word(const std::string& peer);
  bool may_wake(const PeerState& peer, double now) const;

  void tick();
  void look_after_certificate(double now);
  void bound_logs();
  std::optional<double> certificate_left() const;
  double seconds() const;

  const NodeConfig config_;
  const sys::UniqueFd directory_;  // locked: no other node's
  const GuestGroups groups_;
  Records records_;
  const std::chrono::steady_clock::time_point began_ = std::chrono::steady_clock::now();

  std::optional<std::int64_t> certificate_ends_;  // Unix seconds
  double warn_again_ = -1e18;                     // of the ticking thread

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
  std::uint64_t rounds_ = 0;
  HostLoad host_load_;
  HostSample host_;
  balancer::OverloadDetector detector_;
  bool hot_ = false;
  std::uint64_t wanted_ = 0;  // bit 0: the newest round wanted to move something
  double last_arrival_ = -1e18;
  double quiet_until_ = 0;
  Turn turn_;
  Rise rise_;
  double boot_seconds_;  // that the last host took that was woken
  double empty_since_ = -1;
  double last_tick_ = 1e18;
  Sleep sleep_;
  std::map<std::string, double> no_wake_before_;  // peers that did not wake
  struct Reluctant {
    unsigned times = 0;  // in a row
    double until = 0;
  };
  std::map<std::string, Reluctant> reluctant_;  // peers that took no guest
  Capabilities capabilities_;
  MovePaths paths_;
  MoveStats finished_;
  std::map<std::string, double> said_;  // refusals and advice, and when they were recorded
  std::map<std::string, std::uint64_t> counters_;
  Drain drain_;
  std::mt19937_64 random_{std::random_device{}()};
  std::thread drainer_;
  std::thread sleeper_;
  bool sleep_hook_runs_ = false;  // perhaps longer than the sleep

  Peers peers_;
  std::thread ticker_;  // last: uses all of the above
};

}  // namespace godwit::node
