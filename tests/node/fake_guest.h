// A guest that only remembers what it was asked: the other end of the control API in tests.
#pragma once

#include <fmt/format.h>

#include <mutex>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "node/guest_control.h"

namespace godwit::node {

class FakeGuest : public GuestControl {
 public:
  nlohmann::json status() override {
    note("status");
    return {{"name", "web1"}, {"state", "running"}};
  }
  nlohmann::json load() override {
    note("load");
    return {{"state", "running"},
            {"cpus", 2},
            {"cpu_run_ns", 123},
            {"cpu_wait_ns", 45},
            {"memory_bytes", 268435456},
            {"memory_used_bytes", 73400320},
            {"dirty_bytes_per_s", 1048576.0},
            {"disk_read_bytes", 0},
            {"disk_write_bytes", 0},
            {"net_receive_bytes", 0},
            {"net_send_bytes", 0}};
  }
  void pause() override {
    note("pause");
    if (moving) throw Conflict("web1 is being moved");
  }
  void resume() override { note("resume"); }
  void balloon(std::uint64_t bytes) override { note(fmt::format("balloon {}", bytes)); }
  void stop(bool force) override { note(force ? "stop force" : "stop"); }
  void migrate(const MoveRequest& request, MoveDone done) override {
    note("migrate " + request.to);
    const std::lock_guard lock(mutex);
    last_request = request;
    last_done = std::move(done);
  }
  void resume_migration(std::chrono::milliseconds /*wait*/, MoveDone done) override {
    note("resume migration");
    done({{"status", "completed"}});
  }
  void snapshot(const SnapshotRequest& request, MoveDone done) override {
    note((request.stop ? "snapshot and stop " : "snapshot ") + request.directory);
    const std::lock_guard lock(mutex);
    last_done = std::move(done);
  }
  void upgrade(const std::string& program, MoveDone done) override {
    note("upgrade " + program);
    done({{"status", "completed"}});
  }
  nlohmann::json migration() override { return {{"active", nullptr}, {"last_report", nullptr}}; }
  void cancel_migration() override {
    note("cancel");
    throw std::runtime_error("out of order");
  }
  void resolve(bool here) override { note(here ? "resolve here" : "resolve there"); }

  void note(std::string what) {
    const std::lock_guard lock(mutex);
    calls.push_back(std::move(what));
  }

  std::mutex mutex;
  std::vector<std::string> calls;
  MoveRequest last_request;
  MoveDone last_done;
  bool moving = false;
};

}  // namespace godwit::node
