#include "node/daemon/metrics.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <limits>
#include <regex>
#include <set>
#include <sstream>
#include <vector>

#include "tests/node/daemon/sample_node.h"

namespace godwit::node {
namespace {

using nlohmann::json;

bool has(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

TEST(Metrics, GiveEveryFieldItsStandardNameAndBaseUnit) {
  EXPECT_EQ(prometheus_text(sample_node()),
            R"(# HELP godwit_build_info The version that runs; always 1.
# TYPE godwit_build_info gauge
godwit_build_info{version="0.1.0"} 1
# HELP godwit_node_info The node's name, goal and mode; always 1.
# TYPE godwit_node_info gauge
godwit_node_info{node="a",goal="balance",mode="automatic"} 1
# HELP godwit_node_state 1 for the state that the node is in.
# TYPE godwit_node_state gauge
godwit_node_state{state="open"} 1
godwit_node_state{state="closed"} 0
godwit_node_state{state="draining"} 0
godwit_node_state{state="asleep"} 0
# HELP godwit_node_uptime_seconds Time since the node began.
# TYPE godwit_node_uptime_seconds gauge
godwit_node_uptime_seconds 3912.5
# HELP godwit_node_certificate_left_seconds Until the node's certificate expires; below 0 it has.
# TYPE godwit_node_certificate_left_seconds gauge
godwit_node_certificate_left_seconds 8640000
# HELP godwit_host_cpu_capacity_cores CPU cores this host has for guests.
# TYPE godwit_host_cpu_capacity_cores gauge
godwit_host_cpu_capacity_cores 4
# HELP godwit_host_cpu_demand_cores CPU cores that the guests of this host ask for.
# TYPE godwit_host_cpu_demand_cores gauge
godwit_host_cpu_demand_cores 1.25
# HELP godwit_host_cpu_forecast_cores CPU cores that they are expected to ask for.
# TYPE godwit_host_cpu_forecast_cores gauge
godwit_host_cpu_forecast_cores 1.5
# HELP godwit_host_cpu_busy_cores CPU cores of this host at work, whoever uses them.
# TYPE godwit_host_cpu_busy_cores gauge
godwit_host_cpu_busy_cores 0.31
# HELP godwit_host_memory_bytes Memory this host has for guests.
# TYPE godwit_host_memory_bytes gauge
godwit_host_memory_bytes 16777216000
# HELP godwit_host_memory_used_bytes Memory in use, reservations included.
# TYPE godwit_host_memory_used_bytes gauge
godwit_host_memory_used_bytes 851443712
# HELP godwit_host_memory_available_bytes Memory that new guests can have now.
# TYPE godwit_host_memory_available_bytes gauge
godwit_host_memory_available_bytes 12582912000
# HELP godwit_host_link_bytes_per_second Bytes a second that a move can use.
# TYPE godwit_host_link_bytes_per_second gauge
godwit_host_link_bytes_per_second 1310720000
# HELP godwit_host_network_receive_bytes_per_second Bytes received, without RDMA.
# TYPE godwit_host_network_receive_bytes_per_second gauge
godwit_host_network_receive_bytes_per_second 1000.5
# HELP godwit_host_network_transmit_bytes_per_second Bytes sent, without RDMA.
# TYPE godwit_host_network_transmit_bytes_per_second gauge
godwit_host_network_transmit_bytes_per_second 0
# HELP godwit_host_guests Guests on this host.
# TYPE godwit_host_guests gauge
godwit_host_guests 1
# HELP godwit_host_hot 1 while this host is overloaded, by the balancer's rules.
# TYPE godwit_host_hot gauge
godwit_host_hot 0
# HELP godwit_host_pressure_ratio Share of time in which some task waited for the resource (PSI).
# TYPE godwit_host_pressure_ratio gauge
godwit_host_pressure_ratio{resource="cpu"} 0.1
godwit_host_pressure_ratio{resource="memory"} 0
godwit_host_pressure_ratio{resource="io"} 0.25
# HELP godwit_migrations_in_progress Moves in flight.
# TYPE godwit_migrations_in_progress gauge
godwit_migrations_in_progress{direction="incoming"} 0
godwit_migrations_in_progress{direction="outgoing"} 1
# HELP godwit_guest_vcpus Virtual CPUs.
# TYPE godwit_guest_vcpus gauge
godwit_guest_vcpus{guest="web1"} 2
# HELP godwit_guest_cpu_demand_cores CPU cores the guest asks for.
# TYPE godwit_guest_cpu_demand_cores gauge
godwit_guest_cpu_demand_cores{guest="web1"} 0.97
# HELP godwit_guest_cpu_forecast_cores CPU cores it is expected to ask for.
# TYPE godwit_guest_cpu_forecast_cores gauge
godwit_guest_cpu_forecast_cores{guest="web1"} 0.9
# HELP godwit_guest_memory_bytes Memory the guest was given.
# TYPE godwit_guest_memory_bytes gauge
godwit_guest_memory_bytes{guest="web1"} 268435456
# HELP godwit_guest_memory_used_bytes Memory of it that is populated.
# TYPE godwit_guest_memory_used_bytes gauge
godwit_guest_memory_used_bytes{guest="web1"} 73400320
# HELP godwit_guest_dirty_bytes_per_second Bytes of memory the guest dirties a second.
# TYPE godwit_guest_dirty_bytes_per_second gauge
godwit_guest_dirty_bytes_per_second{guest="web1"} 1572864
# HELP godwit_guest_disk_read_bytes_per_second Bytes the guest reads from its disks.
# TYPE godwit_guest_disk_read_bytes_per_second gauge
godwit_guest_disk_read_bytes_per_second{guest="web1"} 0
# HELP godwit_guest_disk_write_bytes_per_second Bytes the guest writes to its disks.
# TYPE godwit_guest_disk_write_bytes_per_second gauge
godwit_guest_disk_write_bytes_per_second{guest="web1"} 4096
# HELP godwit_guest_network_receive_bytes_per_second Bytes that reach the guest's network cards.
# TYPE godwit_guest_network_receive_bytes_per_second gauge
godwit_guest_network_receive_bytes_per_second{guest="web1"} 1000.5
# HELP godwit_guest_network_transmit_bytes_per_second Bytes that the guest's network cards send.
# TYPE godwit_guest_network_transmit_bytes_per_second gauge
godwit_guest_network_transmit_bytes_per_second{guest="web1"} 0
# HELP godwit_guest_pinned 1 if the balancer may not move the guest.
# TYPE godwit_guest_pinned gauge
godwit_guest_pinned{guest="web1"} 0
# HELP godwit_guest_cpu_seconds_total Time that its virtual CPUs ran, since it came here.
# TYPE godwit_guest_cpu_seconds_total counter
godwit_guest_cpu_seconds_total{guest="web1"} 311.5
# HELP godwit_guest_cpu_wait_seconds_total Time that they waited for a CPU of the host, since it came here.
# TYPE godwit_guest_cpu_wait_seconds_total counter
godwit_guest_cpu_wait_seconds_total{guest="web1"} 4.25
# HELP godwit_migration_size_bytes Memory that the move in flight has to copy.
# TYPE godwit_migration_size_bytes gauge
godwit_migration_size_bytes{guest="web1"} 268435456
# HELP godwit_migration_remaining_bytes Memory that it still has to copy.
# TYPE godwit_migration_remaining_bytes gauge
godwit_migration_remaining_bytes{guest="web1"} 67108864
# HELP godwit_migration_throughput_bytes_per_second Bytes a second it sends of late.
# TYPE godwit_migration_throughput_bytes_per_second gauge
godwit_migration_throughput_bytes_per_second{guest="web1"} 112500000
# HELP godwit_migration_elapsed_seconds How long it has been going on.
# TYPE godwit_migration_elapsed_seconds gauge
godwit_migration_elapsed_seconds{guest="web1"} 0.3
# HELP godwit_migrations_total Moves that this node began, by result.
# TYPE godwit_migrations_total counter
godwit_migrations_total{result="completed"} 3
godwit_migrations_total{result="failed"} 1
# HELP godwit_migrations_undone_total Guests that the balancer moved on within 15 minutes of its move here.
# TYPE godwit_migrations_undone_total counter
godwit_migrations_undone_total 0
# HELP godwit_decisions_total Decisions of the balancer, also to stay.
# TYPE godwit_decisions_total counter
godwit_decisions_total 40
# HELP godwit_refusals_total Rounds in which the balancer saw cause to act and stayed, or could not.
# TYPE godwit_refusals_total counter
godwit_refusals_total 2
# HELP godwit_reservations_expired_total Reservations that nobody used.
# TYPE godwit_reservations_expired_total counter
godwit_reservations_expired_total 0
# HELP godwit_reservations_refused_total Places that peers asked for and did not get.
# TYPE godwit_reservations_refused_total counter
godwit_reservations_refused_total 1
# HELP godwit_migration_duration_seconds How long moves took that this node began and that completed.
# TYPE godwit_migration_duration_seconds histogram
godwit_migration_duration_seconds_bucket{le="0.5"} 1
godwit_migration_duration_seconds_bucket{le="1"} 2
godwit_migration_duration_seconds_bucket{le="+Inf"} 3
godwit_migration_duration_seconds_sum 4.5
godwit_migration_duration_seconds_count 3
# HELP godwit_migration_downtime_seconds How long they paused their guests.
# TYPE godwit_migration_downtime_seconds histogram
godwit_migration_downtime_seconds_bucket{le="0.05"} 2
godwit_migration_downtime_seconds_bucket{le="+Inf"} 3
godwit_migration_downtime_seconds_sum 0.125
godwit_migration_downtime_seconds_count 3
# HELP godwit_migration_sent_bytes_total Guest memory that they sent, repeats included.
# TYPE godwit_migration_sent_bytes_total counter
godwit_migration_sent_bytes_total 805306368
# HELP godwit_peer_up 1 while the peer answers.
# TYPE godwit_peer_up gauge
godwit_peer_up{peer="b"} 1
godwit_peer_up{peer="c"} 0
# HELP godwit_peer_asleep 1 while the peer is powered down to save energy.
# TYPE godwit_peer_asleep gauge
godwit_peer_asleep{peer="b"} 0
godwit_peer_asleep{peer="c"} 0
# HELP godwit_peer_last_answer_age_seconds How long ago the peer last answered.
# TYPE godwit_peer_last_answer_age_seconds gauge
godwit_peer_last_answer_age_seconds{peer="b"} 0.4
godwit_peer_last_answer_age_seconds{peer="c"} 12
# HELP godwit_peer_cpu_capacity_cores CPU cores the peer says it has.
# TYPE godwit_peer_cpu_capacity_cores gauge
godwit_peer_cpu_capacity_cores{peer="b"} 4
# HELP godwit_peer_cpu_demand_cores CPU cores its guests ask for, as it says.
# TYPE godwit_peer_cpu_demand_cores gauge
godwit_peer_cpu_demand_cores{peer="b"} 0.5
)");
}

TEST(Metrics, LeaveOutWhatIsMissingOrNull) {
  EXPECT_EQ(prometheus_text(json::object()), "");
  EXPECT_EQ(prometheus_text(json()), "");
  EXPECT_EQ(prometheus_text(json::parse(R"({"host": {"capacity": null, "demand": 2}})")),
            "# HELP godwit_host_cpu_demand_cores CPU cores that the guests of this host ask for.\n"
            "# TYPE godwit_host_cpu_demand_cores gauge\n"
            "godwit_host_cpu_demand_cores 2\n");
  EXPECT_EQ(prometheus_text(json::parse(R"({"guests": [null, 7, {"demand": 1}, {"name": 3}]})")),
            "");
}

TEST(Metrics, LeaveOutNumbersThatAreNone) {
  json node = {{"uptime_s", std::numeric_limits<double>::quiet_NaN()},
               {"host",
                {{"capacity", std::numeric_limits<double>::infinity()},
                 {"memory", 1e308},  // in bytes no double
                 {"demand", "4"}}}};
  EXPECT_EQ(prometheus_text(node), "");
  node["uptime_s"] = -0.0;
  EXPECT_TRUE(has(prometheus_text(node), "godwit_node_uptime_seconds 0\n"));
}

/// Any field of the sample may be anything.
void replace_each(json& root, json& here) {
  for (auto& child : here) {
    const json kept = child;
    for (const json& other : {json(), json(-1), json("x"), json::array({1, nullptr}),
                              json::object({{"name", "n"}}), json(true)}) {
      child = other;
      EXPECT_NO_THROW(prometheus_text(root)) << root;
    }
    child = kept;
    if (child.is_structured()) replace_each(root, child);
  }
}

TEST(Metrics, SurviveEveryFieldOfAnotherType) {
  json node = sample_node();
  replace_each(node, node);
}

TEST(Metrics, EscapeLabelValues) {
  const json node = {{"peers", {{{"name", "a\"b\\c\nd\xFF"}, {"state", "alive"}}}}};
  EXPECT_TRUE(
      has(prometheus_text(node), "godwit_peer_up{peer=\"a\\\"b\\\\c\\nd\xEF\xBF\xBD\"} 1\n"))
      << prometheus_text(node);
}

TEST(Metrics, SayEachHeadAndEachSampleOnce) {
  json node = sample_node();
  node["guests"].push_back(node["guests"][0]);  // Prometheus refuses an answer with duplicates
  json other = node["guests"][0];
  other["name"] = "web2";
  node["guests"].push_back(other);
  std::istringstream lines(prometheus_text(node));
  std::set<std::string> seen;
  for (std::string line; std::getline(lines, line);) {
    const std::string key = line.rfind("# ", 0) == 0 ? line : line.substr(0, line.rfind(' '));
    EXPECT_TRUE(seen.insert(key).second) << line;
  }
  EXPECT_TRUE(seen.contains("godwit_guest_cpu_demand_cores{guest=\"web2\"}"));
}

/// Every string below `here` that is a query: of a panel, or of a variable that asks for labels.
void queries(const json& here, std::vector<std::string>& found) {
  for (const auto& [key, value] : here.items()) {
    if (value.is_structured()) queries(value, found);
    if (!value.is_string()) continue;
    const auto text = value.get<std::string>();
    if (key == "expr" || text.rfind("label_values(", 0) == 0) found.push_back(text);
  }
}

json dashboard() {
  std::ifstream file(GODWIT_DOCS "/grafana-godwit.json");
  return json::parse(file);
}

TEST(Dashboard, AsksOnlyForMetricsAndLabelsThatTheNodeGives) {
  const std::string given = prometheus_text(sample_node());
  std::vector<std::string> asked;
  queries(dashboard(), asked);
  EXPECT_GT(asked.size(), 20u);
  const std::regex metric("godwit_[a-z0-9_]+");
  const std::regex label(R"re(([a-z]+)=~?"([a-z]*))re");
  const std::regex by(R"re(by \(([a-z]+)\))re");
  for (const std::string& query : asked) {
    unsigned metrics = 0;
    for (std::sregex_iterator i(query.begin(), query.end(), metric), end; i != end;
         ++i, ++metrics) {
      const std::string family = std::regex_replace(i->str(), std::regex("_bucket$"), "");
      EXPECT_TRUE(has(given, "\n# TYPE " + family + " ")) << query;
    }
    EXPECT_GT(metrics, 0u) << query;
    for (std::sregex_iterator i(query.begin(), query.end(), label), end; i != end; ++i) {
      if (i->str(1) != "instance") {  // that one is Prometheus' own
        EXPECT_TRUE(has(given, i->str(1) + "=\"" + i->str(2))) << query;
      }
    }
    for (std::sregex_iterator i(query.begin(), query.end(), by), end; i != end; ++i) {
      EXPECT_TRUE(i->str(1) == "instance" || has(given, "{" + i->str(1) + "=\"")) << query;
    }
  }
}

TEST(Dashboard, IsOneThatGrafanaLoads) {
  const json board = dashboard();
  EXPECT_GE(board.at("schemaVersion"), 36);
  EXPECT_EQ(board.at("templating").at("list").at(0).at("type"), "datasource");
  std::set<int> ids;
  std::set<std::pair<int, int>> cells;
  for (const json& panel : board.at("panels")) {
    EXPECT_TRUE(ids.insert(panel.at("id").get<int>()).second);
    EXPECT_EQ(panel.at("datasource").at("uid"), "${datasource}");
    const json& place = panel.at("gridPos");
    EXPECT_LE(place.at("x").get<int>() + place.at("w").get<int>(), 24);
    for (int x = 0; x < place.at("w"); ++x) {
      for (int y = 0; y < place.at("h"); ++y) {
        EXPECT_TRUE(
            cells.emplace(place.at("x").get<int>() + x, place.at("y").get<int>() + y).second)
            << panel.at("title") << " lies on another";
      }
    }
  }
}

}  // namespace
}  // namespace godwit::node
