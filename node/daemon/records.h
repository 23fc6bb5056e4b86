// What the balancer decided and why, and what became of it: one JSON object each, the newest in
// memory, all of the last megabytes on disk as JSON lines. Any thread.
#pragma once

#include <cstdint>
#include <deque>
#include <mutex>
#include <nlohmann/json.hpp>
#include <string>

namespace godwit::node {

class Records {
 public:
  static constexpr std::size_t kKept = 1000;               // in memory
  static constexpr std::uint64_t kFileBytes = 4ull << 20;  // then the file becomes FILE.1

  /// Reads what an earlier node left in `file` and FILE.1; lines that are torn or no record are
  /// skipped. Throws std::runtime_error when the file cannot be written.
  explicit Records(std::string file);

  /// Gives the record its "id" and "time" (Unix seconds) and keeps it; returns the id.
  std::uint64_t add(nlohmann::json record);
  /// Adds what became of it, as "outcome"; fields of an earlier outcome stay unless named again.
  void conclude(std::uint64_t id, const nlohmann::json& outcome);

  /// Null when it is not in memory.
  nlohmann::json find(std::uint64_t id) const;
  /// The newest `count`, oldest first; of one guest only, if `guest` is not empty.
  nlohmann::json newest(std::size_t count, const std::string& guest = {}) const;
  std::uint64_t count() const;

 private:
  void load(const std::string& path);
  void apply(const nlohmann::json& line);
  void append(const nlohmann::json& line);

  const std::string file_;
  mutable std::mutex mutex_;
  std::deque<nlohmann::json> records_;
  std::uint64_t last_id_ = 0;
  std::uint64_t added_ = 0;
};

}  // namespace godwit::node
