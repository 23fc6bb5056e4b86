// What a move did, for people and for scripts. Times in milliseconds, sizes in bytes.
#pragma once

#include <chrono>
#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

namespace godwit::migration {

struct Round {
  std::uint64_t pages = 0;  // sent
  std::uint64_t bytes = 0;  // of those pages
  double ms = 0;
  std::uint64_t dirty_pages = 0;  // found dirty at its end
};

/// How a move is expected to end.
struct Prediction {
  double total_ms = 0;  // of the move, from its beginning
  double downtime_ms = 0;
  unsigned rounds = 0;    // in all, the last one not counted, for which the guest stands still
  unsigned throttle = 0;  // percent, in the end
  bool post_copy = false;
};

struct Report {
  std::string status;     // "completed", "failed", "cancelled", "in-doubt", "postcopy-paused"
  std::string reason;     // why not completed; one line
  std::string transport;  // "rdma", "tcp" or "shared"; empty when it never came to that
  std::string transport_reason;
  unsigned streams = 1;              // connections, or queue pairs, that carried pages
  std::vector<unsigned> rdma_ports;  // that the source used, the first that of the connection
  std::string tls = "none";  // who encrypted them here: "kernel", "user" (this process) or "none"
  double total_ms = 0;
  double setup_ms = 0;     // until the first page could be sent
  double downtime_ms = 0;  // from the pause to the destination's word that the guest runs
  double pause_ms = 0;
  double last_round_ms = 0;
  double verify_ms = 0;  // digests of RAM, where asked for; the destination's are in state_ms
  double state_ms =
      0;  // saving, sending and restoring the state, and whatever pages still travelled
  double resume_ms = 0;  // from commit to the guest running
  Prediction predicted;  // after the first round; all 0: nothing was
  std::vector<Round> rounds;
  struct {
    std::uint64_t sent = 0;    // pages that travelled, repeats included
    std::uint64_t zero = 0;    // held memory at the source but only zeros
    std::uint64_t hole = 0;    // never touched by the guest
    std::uint64_t resent = 0;  // of `sent`: not for the first time
  } pages;
  struct {
    bool used = false;
    std::uint64_t missing_bytes = 0;  // when the guest began to run at the destination
    std::uint64_t asked = 0;          // pages that somebody there had to wait for; TCP only
    double ms = 0;                    // from then to the last page
  } postcopy;
  unsigned throttle_percent = 0;  // the most that was taken of the vCPUs' time
  double throttle_ms = 0;         // how long it was throttled at all
  std::uint64_t ram_bytes = 0;
  std::uint64_t state_bytes = 0;
  std::uint64_t wire_bytes = 0;  // that travelled from Begin on, compressed where they were
  double cpu_source_ms = 0;      // of the source's process less its vCPUs, while moving
  double cpu_destination_ms = 0;
  double cpu_destination_rounds_ms = 0;  // of these, while pages came and the guest ran here

  double throughput_mbps() const;  // Mbit/s over the rounds
};

struct Progress {
  std::string
      phase;  // "connecting", "preparing", "rounds", "switching over", "committed", "postcopy"
  std::string transport;
  unsigned round = 0;
  std::uint64_t remaining_bytes = 0;
  std::uint64_t total_bytes = 0;  // of guest RAM that holds data
  double throughput_mbps = 0;
  double dirty_mbps = 0;          // in the last round
  unsigned throttle_percent = 0;  // of the vCPUs' time that is taken now
  double predicted_downtime_ms = 0;
  double downtime_limit_ms = 0;
  double elapsed_ms = 0;
  /// Of a move whose Commit went unanswered.
  struct Doubt {
    using TimePoint = std::chrono::steady_clock::time_point;
    std::optional<TimePoint> since;  // none: it is in no doubt
    unsigned attempts = 0;           // to find out
    std::optional<TimePoint> last_attempt;
    std::string last_error;  // why it is not known yet
  } doubt;
};

nlohmann::json to_json(const Prediction& prediction);
nlohmann::json to_json(const Report& report);
nlohmann::json to_json(const Progress& progress);

}  // namespace godwit::migration
