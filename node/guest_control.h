// What can be asked of a guest from outside its process: the operations behind the control API.
// Implemented by Guest; tests put a fake here. Called from the API's thread; every method returns
// within milliseconds, so one client cannot hold up another.
#pragma once

#include <cstdint>
#include <functional>
#include <nlohmann/json_fwd.hpp>
#include <stdexcept>
#include <string>

namespace godwit::node {

/// The guest is in no state for this request ("web1 is being moved"); what() is one line for the
/// user.
class Conflict : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// Not now: as many moves are under way as there may be. The same may work in a while.
class Busy : public Conflict {
 public:
  using Conflict::Conflict;
};

/// The request itself makes no sense, whatever state the guest is in.
class BadRequest : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

struct MoveRequest {
  std::string to;                  // HOST:PORT of a `godwit receive`
  std::string transport = "auto";  // "auto", "rdma" or "tcp"
  std::string mode = "precopy";    // "precopy", "postcopy" or "hybrid"
  std::uint64_t downtime_limit_ms = 50;
  std::uint64_t max_bandwidth = 0;    // bits a second, 0: as fast as it goes
  std::uint64_t timeout_ms = 60'000;  // for the whole move, 0: none
  bool verify = false;                // compare digests of memory before the commit
  unsigned throttle_percent = 0;      // at most that much of the vCPUs' time, 0 to 95
  unsigned streams = 0;               // connections for pages by TCP, 0: by the host's CPUs
};

struct SnapshotRequest {
  std::string directory;  // absolute; must not exist
  bool stop = false;      // end the guest once its snapshot is complete
};

class GuestControl {
 public:
  /// Gets the final report of a move, as the API answers it. Called once, from any thread.
  using MoveDone = std::function<void(const nlohmann::json& report)>;

  virtual ~GuestControl() = default;

  virtual nlohmann::json status() = 0;
  /// What the guest asks of its host, see docs/api.md; meant to be asked for every second.
  virtual nlohmann::json load() = 0;
  virtual void pause() = 0;
  virtual void resume() = 0;
  /// Asks the guest to give that many bytes of its memory.
  virtual void balloon(std::uint64_t bytes) = 0;
  /// The ACPI power button, or with `force` the end of the guest at once.
  virtual void stop(bool force) = 0;
  /// Starts a move and returns.
  virtual void migrate(const MoveRequest& request, MoveDone done) = 0;
  /// Goes on with a move that has lost its link in post-copy, and returns.
  virtual void resume_migration(MoveDone done) = 0;
  /// Starts to hand the guest over to a process that runs `program`, another godwit, and returns.
  virtual void upgrade(const std::string& program, MoveDone done) = 0;
  /// Starts to take a snapshot and returns; `done` gets its report.
  virtual void snapshot(const SnapshotRequest& request, MoveDone done) = 0;
  /// Progress of the move that is going on, or the last report, or null.
  virtual nlohmann::json migration() = 0;
  /// Of the move or the snapshot that is going on.
  virtual void cancel_migration() = 0;
  /// Decides a guest left in doubt by a connection lost while committing: it runs on here, or it is
  /// over here because it runs at the destination.
  virtual void resolve(bool here) = 0;
};

}  // namespace godwit::node
