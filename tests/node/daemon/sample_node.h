// GET /v1/node of a small node that uses every field: one guest, one move, two peers.
#pragma once

#include <nlohmann/json.hpp>

namespace godwit::node {

inline nlohmann::json sample_node() {
  return nlohmann::json::parse(R"({
  "name": "a", "version": "0.1.0", "protocol": 1, "goal": "balance", "mode": "automatic",
  "state": "open", "uptime_s": 3912.5, "certificate_left_s": 8640000.0,
  "host": {"capacity": 4.0, "memory": 16000.0, "memory_used": 812.0, "memory_available": 12000.0, "link": 1250.0,
           "demand": 1.25, "forecast": {"mean": 1.5, "variance": 0.01}, "expected": 1.5, "guests": 1,
           "capabilities": ["gpu"], "apart": ["db"], "together": [], "incoming": 0, "outgoing": 1, "hot": false,
           "last_arrival_age_s": null, "cpu_busy": 0.31,
           "psi": {"cpu": 0.1, "memory": 0.0, "io": 0.25},
           "network_rx_bytes_per_s": 1000.5, "network_tx_bytes_per_s": 0.0,
           "power_watts": [80, 90, 100, 110, 120, 130, 140, 150, 160, 170, 180]},
  "guests": [{"name": "web1", "state": "migrating", "pid": 4711, "cpus": 2, "demand": 0.97,
              "forecast": {"mean": 0.9, "variance": 0.01}, "cpu_run_s": 311.5, "cpu_wait_s": 4.25, "memory": 256.0, "memory_used": 70.0,
              "dirty_rate": 1.5, "disk_read_bytes_per_s": 0.0, "disk_write_bytes_per_s": 4096.0,
              "net_receive_bytes_per_s": 1000.5, "net_send_bytes_per_s": 0.0,
              "sensitivity": 1.0, "needs": [], "apart": "", "together": "", "pinned": false,
              "last_move_age_s": null, "recent_moves": 0.0, "left": "c", "migration": null}],
  "moves": [{"guest": "web1", "to": "b", "from": "a", "phase": "rounds", "transport": "rdma",
             "total_bytes": 268435456, "remaining_bytes": 67108864, "throughput_mbps": 900.0,
             "elapsed_ms": 300.0}],
  "peers": [{"name": "b", "address": "192.0.2.2:7400", "state": "alive", "why": "", "age_s": 0.4,
             "capacity": 4.0, "demand": 0.5, "forecast": 0.5, "memory": 16000.0,
             "memory_used": 500.0, "guests": 1, "hot": false, "closed": false},
            {"name": "c", "address": "192.0.2.3:7400", "state": "silent",
             "why": "connection refused", "age_s": 12.0, "capacity": null, "demand": null,
             "forecast": null, "memory": null, "memory_used": null, "guests": null, "hot": false,
             "closed": false}],
  "decisions": [{"id": 17, "age_s": 3.2, "text": "moved web1 to b: a is expected at 4.6 of 4"}],
  "counters": {"moves_completed": 3, "moves_failed": 1, "moves_undone": 0, "decisions": 40,
               "refusals": 2, "reservations_expired": 0, "reservations_refused": 1,
               "moves": {"seconds": {"le": [0.5, 1.0], "counts": [1, 2, 3], "sum": 4.5},
                         "downtime_seconds": {"le": [0.05], "counts": [2, 3], "sum": 0.125},
                         "sent_bytes": 805306368.0}}})");
}

}  // namespace godwit::node
