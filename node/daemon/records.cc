#include "node/daemon/records.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <stdexcept>

#include "node/daemon/json_fields.h"

namespace godwit::node {

using nlohmann::json;

namespace {

constexpr std::size_t kMaxLine = 256 * 1024;

template <typename Records>
auto* with_id(Records& records, std::uint64_t id) {
  const auto found = std::find_if(records.rbegin(), records.rend(),
                                  [&](const json& record) { return record["id"] == id; });
  return found == records.rend() ? nullptr : &*found;
}

double unix_seconds() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

}  // namespace

Records::Records(std::string file) : file_(std::move(file)) {
  load(file_ + ".1");
  load(file_);
  std::ofstream out(file_, std::ios::app);
  if (!out) throw std::runtime_error(fmt::format("{}: cannot be written", file_));
  // A node that was killed may have left half a line.
  std::error_code ignored;
  if (std::filesystem::file_size(file_, ignored) > 0) out << '\n';
}

void Records::load(const std::string& path) {
  std::ifstream in(path);
  for (std::string line; std::getline(in, line);) {
    if (line.empty() || line.size() > kMaxLine) continue;
    const json value = json::parse(line, nullptr, false);
    if (value.is_object() && field(value, "id").is_number_unsigned()) apply(value);
  }
}

void Records::apply(const json& line) {
  const auto id = line["id"].get<std::uint64_t>();
  if (line.contains("action")) {
    records_.push_back(line);
    if (records_.size() > kKept) records_.pop_front();
    last_id_ = std::max(last_id_, id);
    return;
  }
  json* found = with_id(records_, id);
  if (found != nullptr && line.contains("outcome")) {
    json& outcome = (*found)["outcome"];
    if (!outcome.is_object()) outcome = json::object();
    outcome.update(line["outcome"].is_object() ? line["outcome"] : json::object());
  }
}

void Records::append(const json& line) {
  std::error_code ignored;
  if (std::filesystem::file_size(file_, ignored) > kFileBytes) {
    std::filesystem::rename(file_, file_ + ".1", ignored);
  }
  std::ofstream(file_, std::ios::app)
      << line.dump(-1, ' ', false, json::error_handler_t::replace) << '\n';
}

std::uint64_t Records::add(json record) {
  const std::lock_guard lock(mutex_);
  record["id"] = ++last_id_;
  record["time"] = unix_seconds();
  append(record);
  apply(record);
  ++added_;
  return last_id_;
}

void Records::conclude(std::uint64_t id, const json& outcome) {
  const std::lock_guard lock(mutex_);
  const json line{{"id", id}, {"outcome", outcome}};
  append(line);
  apply(line);
}

json Records::find(std::uint64_t id) const {
  const std::lock_guard lock(mutex_);
  const json* found = with_id(records_, id);
  return found == nullptr ? json() : *found;
}

json Records::newest(std::size_t count, const std::string& guest) const {
  const std::lock_guard lock(mutex_);
  json list = json::array();
  for (auto record = records_.rbegin(); record != records_.rend() && list.size() < count;
       ++record) {
    if (guest.empty() || text_in(*record, "guest") == guest ||
        text_in(*record, "partner") == guest) {
      list.push_back(*record);
    }
  }
  std::reverse(list.begin(), list.end());
  return list;
}

std::uint64_t Records::count() const {
  const std::lock_guard lock(mutex_);
  return added_;
}

}  // namespace godwit::node
