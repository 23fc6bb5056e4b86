#include "node/daemon/metrics.h"

#include <fmt/format.h>

#include <array>
#include <initializer_list>
#include <set>
#include <span>
#include <utility>

#include "node/daemon/json_fields.h"
#include "node/daemon/screen_text.h"

namespace godwit::node {

using nlohmann::json;

namespace {

constexpr double kMegabyte = 1048576;           // what the node's JSON calls MB
constexpr double kMegabit = 1'000'000.0 / 8.0;  // of throughput_mbps, in bytes

/// One number of an object that becomes a metric.
struct Field {
  const char* metric;
  const char* help;
  const char* name;  // in the JSON; "forecast.mean" is nested
  double scale = 1;
};

constexpr std::array kHost{
    Field{"godwit_host_cpu_capacity_cores", "CPU cores this host has for guests.", "capacity"},
    Field{"godwit_host_cpu_demand_cores", "CPU cores that the guests of this host ask for.",
          "demand"},
    Field{"godwit_host_cpu_forecast_cores", "CPU cores that they are expected to ask for.",
          "forecast.mean"},
    Field{"godwit_host_cpu_busy_cores", "CPU cores of this host at work, whoever uses them.",
          "cpu_busy"},
    Field{"godwit_host_memory_bytes", "Memory this host has for guests.", "memory", kMegabyte},
    Field{"godwit_host_memory_used_bytes", "Memory in use, reservations included.", "memory_used",
          kMegabyte},
    Field{"godwit_host_memory_available_bytes", "Memory that new guests can have now.",
          "memory_available", kMegabyte},
    Field{"godwit_host_link_bytes_per_second", "Bytes a second that a move can use.", "link",
          kMegabyte},
    Field{"godwit_host_network_receive_bytes_per_second", "Bytes received, without RDMA.",
          "network_rx_bytes_per_s"},
    Field{"godwit_host_network_transmit_bytes_per_second", "Bytes sent, without RDMA.",
          "network_tx_bytes_per_s"},
    Field{"godwit_host_guests", "Guests on this host.", "guests"},
    Field{"godwit_host_hot", "1 while this host is overloaded, by the balancer's rules.", "hot"},
};

constexpr std::array kGuest{
    Field{"godwit_guest_vcpus", "Virtual CPUs.", "cpus"},
    Field{"godwit_guest_cpu_demand_cores", "CPU cores the guest asks for.", "demand"},
    Field{"godwit_guest_cpu_forecast_cores", "CPU cores it is expected to ask for.",
          "forecast.mean"},
    Field{"godwit_guest_memory_bytes", "Memory the guest was given.", "memory", kMegabyte},
    Field{"godwit_guest_memory_used_bytes", "Memory of it that is populated.", "memory_used",
          kMegabyte},
    Field{"godwit_guest_dirty_bytes_per_second", "Bytes of memory the guest dirties a second.",
          "dirty_rate", kMegabyte},
    Field{"godwit_guest_disk_read_bytes_per_second", "Bytes the guest reads from its disks.",
          "disk_read_bytes_per_s"},
    Field{"godwit_guest_disk_write_bytes_per_second", "Bytes the guest writes to its disks.",
          "disk_write_bytes_per_s"},
    Field{"godwit_guest_network_receive_bytes_per_second",
          "Bytes that reach the guest's network cards.", "net_receive_bytes_per_s"},
    Field{"godwit_guest_network_transmit_bytes_per_second",
          "Bytes that the guest's network cards send.", "net_send_bytes_per_s"},
    Field{"godwit_guest_pinned", "1 if the balancer may not move the guest.", "pinned"},
};

constexpr std::array kGuestTotals{
    Field{"godwit_guest_cpu_seconds_total", "Time that its virtual CPUs ran, since it came here.",
          "cpu_run_s"},
    Field{"godwit_guest_cpu_wait_seconds_total",
          "Time that they waited for a CPU of the host, since it came here.", "cpu_wait_s"},
};

constexpr std::array kMove{
    Field{"godwit_migration_size_bytes", "Memory that the move in flight has to copy.",
          "total_bytes"},
    Field{"godwit_migration_remaining_bytes", "Memory that it still has to copy.",
          "remaining_bytes"},
    Field{"godwit_migration_throughput_bytes_per_second", "Bytes a second it sends of late.",
          "throughput_mbps", kMegabit},
    Field{"godwit_migration_elapsed_seconds", "How long it has been going on.", "elapsed_ms", 1e-3},
};

constexpr std::array kPeer{
    Field{"godwit_peer_last_answer_age_seconds", "How long ago the peer last answered.", "age_s"},
    Field{"godwit_peer_cpu_capacity_cores", "CPU cores the peer says it has.", "capacity"},
    Field{"godwit_peer_cpu_demand_cores", "CPU cores its guests ask for, as it says.", "demand"},
};

using Labels = std::initializer_list<std::pair<const char*, std::string>>;

/// Label values: backslash, quote and line feed are escaped, and it must be UTF-8.
std::string escaped(const std::string& value) {
  std::string out;
  for (const char c : valid_utf8(value)) {
    if (c == '\\' || c == '"') out += '\\';
    if (c == '\n') {
      out += "\\n";
    } else {
      out += c;
    }
  }
  return out;
}

/// The text as it grows: a metric's HELP and TYPE come with its first sample, and a sample whose
/// labels were there already is dropped, because Prometheus refuses the whole answer for it.
class Text {
 public:
  void metric(const char* name, const char* type, const char* help) {
    name_ = name;
    head_ = fmt::format("# HELP {0} {2}\n# TYPE {0} {1}\n", name, type, help);
    seen_.clear();
  }
  void sample(Labels labels, std::optional<double> value, const char* suffix = "") {
    if (!value) return;
    std::string text;
    for (const auto& [label, label_value] : labels) {
      text += fmt::format("{}{}=\"{}\"", text.empty() ? "" : ",", label, escaped(label_value));
    }
    if (!seen_.insert(suffix + text).second) return;
    out_ += std::exchange(head_, {}) + name_ + suffix;
    if (!text.empty()) out_ += '{' + text + '}';
    out_ += fmt::format(" {}\n", *value == 0 ? 0.0 : *value);  // no "-0"
  }
  std::string take() { return std::move(out_); }

 private:
  const char* name_ = "";
  std::string head_;
  std::set<std::string> seen_;
  std::string out_;
};

std::optional<double> value_of(const json& object, const Field& wanted) {
  const std::string_view path = wanted.name;
  const std::size_t dot = path.find('.');
  const auto value = dot == std::string_view::npos
                         ? number_in(object, wanted.name)
                         : number_in(field(object, std::string(path.substr(0, dot)).c_str()),
                                     wanted.name + dot + 1);
  if (!value || !std::isfinite(*value * wanted.scale)) return {};
  return *value * wanted.scale;
}

/// Every field of each object of a list that has a name.
void per_object(Text& text, const json& objects, const char* name, const char* label,
                std::span<const Field> fields, const char* type = "gauge") {
  for (const Field& wanted : fields) {
    text.metric(wanted.metric, type, wanted.help);
    for (const json& object : objects) {
      if (const auto who = text_in(object, name)) {
        text.sample({{label, *who}}, value_of(object, wanted));
      }
    }
  }
}

void node_metrics(Text& text, const json& node) {
  if (const auto version = text_in(node, "version")) {
    text.metric("godwit_build_info", "gauge", "The version that runs; always 1.");
    text.sample({{"version", *version}}, 1);
  }
  if (const auto name = text_in(node, "name")) {
    text.metric("godwit_node_info", "gauge", "The node's name, goal and mode; always 1.");
    text.sample({{"node", *name},
                 {"goal", text_in(node, "goal").value_or("")},
                 {"mode", text_in(node, "mode").value_or("")}},
                1);
  }
  if (const auto state = text_in(node, "state")) {
    text.metric("godwit_node_state", "gauge", "1 for the state that the node is in.");
    for (const char* one : {"open", "closed", "draining", "asleep"}) {
      text.sample({{"state", one}}, *state == one ? 1 : 0);
    }
  }
  text.metric("godwit_node_uptime_seconds", "gauge", "Time since the node began.");
  text.sample({}, number_in(node, "uptime_s"));
  text.metric("godwit_node_certificate_left_seconds", "gauge",
              "Until the node's certificate expires; below 0 it has.");
  text.sample({}, number_in(node, "certificate_left_s"));
}

void host_metrics(Text& text, const json& host) {
  for (const Field& wanted : kHost) {
    text.metric(wanted.metric, "gauge", wanted.help);
    text.sample({}, value_of(host, wanted));
  }
  text.metric("godwit_host_pressure_ratio", "gauge",
              "Share of time in which some task waited for the resource (PSI).");
  for (const char* resource : {"cpu", "memory", "io"}) {
    text.sample({{"resource", resource}}, number_in(field(host, "psi"), resource));
  }
  text.metric("godwit_migrations_in_progress", "gauge", "Moves in flight.");
  for (const char* direction : {"incoming", "outgoing"}) {
    text.sample({{"direction", direction}}, number_in(host, direction));
  }
}

/// Of MoveStats.
void histogram(Text& text, const char* name, const char* help, const json& values) {
  const json& bounds = list_in(values, "le");
  const json& counts = list_in(values, "counts");
  const auto sum = number_in(values, "sum");
  if (!sum || counts.size() != bounds.size() + 1) return;
  text.metric(name, "histogram", help);
  for (std::size_t i = 0; i < counts.size(); ++i) {
    const bool last = i == bounds.size();
    if (!counts[i].is_number() || !(last || bounds[i].is_number())) continue;
    text.sample({{"le", last ? "+Inf" : fmt::format("{}", bounds[i].get<double>())}},
                counts[i].get<double>(), "_bucket");
  }
  text.sample({}, sum, "_sum");
  if (counts.back().is_number()) text.sample({}, counts.back().get<double>(), "_count");
}

void finished_metrics(Text& text, const json& moves) {
  histogram(text, "godwit_migration_duration_seconds",
            "How long moves took that this node began and that completed.",
            field(moves, "seconds"));
  histogram(text, "godwit_migration_downtime_seconds", "How long they paused their guests.",
            field(moves, "downtime_seconds"));
  text.metric("godwit_migration_sent_bytes_total", "counter",
              "Guest memory that they sent, repeats included.");
  text.sample({}, number_in(moves, "sent_bytes"));
}

void counter_metrics(Text& text, const json& counters) {
  text.metric("godwit_migrations_total", "counter", "Moves that this node began, by result.");
  for (const auto& [result, name] :
       {std::pair{"completed", "moves_completed"}, {"failed", "moves_failed"}}) {
    text.sample({{"result", result}}, number_in(counters, name));
  }
  text.metric("godwit_migrations_undone_total", "counter",
              "Guests that the balancer moved on within 15 minutes of its move here.");
  text.sample({}, number_in(counters, "moves_undone"));
  text.metric("godwit_decisions_total", "counter", "Decisions of the balancer, also to stay.");
  text.sample({}, number_in(counters, "decisions"));
  text.metric("godwit_refusals_total", "counter",
              "Rounds in which the balancer saw cause to act and stayed, or could not.");
  text.sample({}, number_in(counters, "refusals"));
  text.metric("godwit_reservations_expired_total", "counter", "Reservations that nobody used.");
  text.sample({}, number_in(counters, "reservations_expired"));
  text.metric("godwit_reservations_refused_total", "counter",
              "Places that peers asked for and did not get.");
  text.sample({}, number_in(counters, "reservations_refused"));
}

/// 1 for each peer in that state, 0 for each in another.
void peer_state(Text& text, const json& peers, const char* wanted) {
  for (const json& peer : peers) {
    const auto name = text_in(peer, "name");
    const auto state = text_in(peer, "state");
    if (name && state) text.sample({{"peer", *name}}, *state == wanted ? 1 : 0);
  }
}

void peer_metrics(Text& text, const json& peers) {
  text.metric("godwit_peer_up", "gauge", "1 while the peer answers.");
  peer_state(text, peers, "alive");
  text.metric("godwit_peer_asleep", "gauge", "1 while the peer is powered down to save energy.");
  peer_state(text, peers, "asleep");
  per_object(text, peers, "name", "peer", kPeer);
}

}  // namespace

std::string prometheus_text(const json& node) {
  Text text;
  node_metrics(text, node);
  host_metrics(text, field(node, "host"));
  per_object(text, list_in(node, "guests"), "name", "guest", kGuest);
  per_object(text, list_in(node, "guests"), "name", "guest", kGuestTotals, "counter");
  per_object(text, list_in(node, "moves"), "guest", "guest", kMove);
  counter_metrics(text, field(node, "counters"));
  finished_metrics(text, field(field(node, "counters"), "moves"));
  peer_metrics(text, list_in(node, "peers"));
  return text.take();
}

}  // namespace godwit::node
