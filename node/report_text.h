// Moves in words: the progress and the report of docs/api.md as lines for people. A field that is
// missing (another version at the other end) is left out, never an error.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

namespace godwit::node {

/// "round 3, 12.5M left, 850 Mbit/s"; "-" when there is no move.
std::string progress_text(const nlohmann::json& progress);

/// A line of at most `columns` for a terminal: a bar and progress_text.
std::string progress_bar(const nlohmann::json& progress, unsigned columns);

/// A few lines, each ending in '\n' and indented by two.
std::string report_text(const nlohmann::json& report);
/// The same of a dry run.
std::string dry_run_text(const nlohmann::json& report);

}  // namespace godwit::node
