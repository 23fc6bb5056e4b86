// What a move did, for people and for scripts. Times in milliseconds, sizes in bytes.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

namespace godwit::migration {

struct Round {
  std::uint64_t pages = 0;  // sent
  std::uint64_t bytes = 0;  // of those pages
  double ms = 0;
  std::uint64_t dirty_pages = 0;  // found dirty at its end
};

struct Report {
  std::string status;     // "completed", "failed", "cancelled", "in-doubt", "postcopy-paused"
  std::string reason;     // why not completed; one line
  std::string transport;  // "rdma", "tcp" or "shared"; empty when it never came to that
  std::string transport_reason;
  unsigned streams = 1;      // connections that carried pages
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
  struct {
    double total_ms = 0;
    double downtime_ms = 0;
  } predicted;  // after the first round; 0: nothing was
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
  double cpu_source_ms = 0;  // of the source's process less its vCPUs, while moving
  double cpu_destination_ms = 0;

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
};

nlohmann::json to_json(const Report& report);
nlohmann::json to_json(const Progress& progress);

}  // namespace godwit::migration
