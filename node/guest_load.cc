// What a guest asks of its host: counters, memory in use and how fast that changes.
#include <chrono>

#include "node/guest.h"

namespace godwit::node {

vmm::Usage Guest::usage() const {
  vmm::Usage total = earlier_usage_;
  if (usable()) total += machine_->usage();
  return total;
}

nlohmann::json Guest::load() {
  const std::lock_guard lock(mutex_);
  const vmm::Usage used = usage();
  std::uint64_t memory_used = 0;
  double dirty_rate = 0;
  if (usable()) {
    const memory::GuestMemory& memory = machine_->memory();
    memory_used = memory.populated_bytes();
    dirty_rate = dirty_rate_.sample(memory, std::chrono::steady_clock::now(), !busy());
  }
  return {{"state", state_name()},
          {"cpus", config_.cpus},
          {"cpu_run_ns", used.cpu_run_ns},
          {"cpu_wait_ns", used.cpu_wait_ns},
          {"memory_bytes", config_.memory_bytes},
          {"memory_used_bytes", memory_used},
          {"dirty_bytes_per_s", dirty_rate},
          {"disk_read_bytes", used.disk_read_bytes},
          {"disk_write_bytes", used.disk_write_bytes},
          {"net_receive_bytes", used.net_receive_bytes},
          {"net_send_bytes", used.net_send_bytes}};
}

}  // namespace godwit::node
