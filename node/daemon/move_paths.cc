#include "node/daemon/move_paths.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "node/daemon/json_fields.h"

namespace godwit::node {

using nlohmann::json;

namespace {

constexpr double kMiB = 0x1p20;
constexpr double kNewest = 0.5;           // weight of the newest move
constexpr double kLeastBytes = 4 * kMiB;  // less says nothing about a rate
constexpr double kMostRate = 1e6, kMostSetup = 3600;

double mixed(double known, double newest) {
  return known > 0 ? known + kNewest * (newest - known) : newest;
}

}  // namespace

MovePaths::MovePaths(std::string file) : file_(std::move(file)) {
  std::ifstream in(file_);
  const json kept = json::parse(in, nullptr, false);
  if (!kept.is_object()) return;
  for (const auto& [peer, path] : kept.items()) {
    paths_[peer] = {std::clamp(number_in(path, "rate").value_or(0), 0.0, kMostRate),
                    std::clamp(number_in(path, "setup").value_or(0), 0.0, kMostSetup)};
  }
}

void MovePaths::learn(const std::string& peer, const json& report) {
  double bytes = 0, copying_ms = 0;
  for (const json& round : list_in(report, "rounds")) {
    bytes += number_in(round, "bytes").value_or(0);
    copying_ms += number_in(round, "ms").value_or(0);
  }
  const auto total_ms = number_in(report, "total_ms");
  if (!total_ms || !(copying_ms > 0)) return;
  MovePath& path = paths_[peer];
  path.setup = mixed(path.setup, std::clamp((*total_ms - copying_ms) / 1000, 0.0, kMostSetup));
  if (bytes >= kLeastBytes) {
    path.rate = mixed(path.rate, std::clamp(bytes / kMiB / (copying_ms / 1000), 0.0, kMostRate));
  }
  json all = json::object();
  for (const auto& [name, known] : paths_)
    all[name] = {{"rate", known.rate}, {"setup", known.setup}};
  std::ofstream(file_ + ".new") << all.dump() << '\n';
  std::error_code ignored;
  std::filesystem::rename(file_ + ".new", file_, ignored);
}

MovePath MovePaths::to(const std::string& peer) const {
  const auto found = paths_.find(peer);
  return found == paths_.end() ? MovePath{} : found->second;
}

}  // namespace godwit::node
