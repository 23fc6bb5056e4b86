// What a dry run of a move has measured, and what it expects of the move. Times in milliseconds,
// sizes in bytes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "migration/convergence.h"
#include "migration/dirty_curve.h"
#include "migration/report.h"

namespace godwit::migration {

struct DryRun {
  std::string status;  // "would-complete", "would-not-converge", "failed", "cancelled"
  std::string reason;  // why not would-complete; one line
  std::string transport;
  std::string transport_reason;
  std::string tls = "none";  // as in a Report
  unsigned streams = 1;
  std::size_t rdma_ports = 0;
  double total_ms = 0;  // of the dry run
  double setup_ms = 0;  // as of the move
  std::uint64_t populated_bytes = 0;
  double data_share = 1;         // of the populated pages that were tried: the others are zero
  std::uint64_t link_bytes = 0;  // of pages
  std::uint64_t wire_bytes = 0;  // that travelled for those: fewer where they were compressed
  double link_ms = 0;            // for those
  DirtyCurve curve;
  double log_ms = 0;     // for which the dirty log was on
  double fixed_ms = 0;   // of the switch-over beside sending pages
  double verify_ms = 0;  // of these, for the digests of both ends
  std::uint64_t state_bytes = 0;
  double downtime_limit_ms = 0;
  Prediction predicted;          // if it would complete
  std::vector<Remedy> remedies;  // if it would not converge

  std::uint64_t data_bytes() const;  // to be sent in the first round
  double bytes_per_ms() const;       // of pages that the link carries; 0: not known
  double wire_share() const;         // of these that travels, as compressed pages are smaller
};

nlohmann::json to_json(const DryRun& dry_run);

}  // namespace godwit::migration
