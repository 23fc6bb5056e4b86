#include "node/daemon/node_config.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <set>
#include <stdexcept>

#include "node/control_socket.h"
#include "node/host_port.h"
#include "node/units.h"

namespace godwit::node {

using nlohmann::json;

namespace {

[[noreturn]] void wrong(const std::string& key, const std::string& why) {
  throw std::runtime_error(fmt::format("\"{}\": {}", key, why));
}

/// One object of the file; complains about keys that nobody asked for.
class Section {
 public:
  Section(const json& object, std::string where) : object_(object), where_(std::move(where)) {
    if (!object.is_object()) wrong(where_.empty() ? "." : where_, "must be an object");
  }

  bool has(const char* key) {
    known_.insert(key);
    return object_.contains(key);
  }
  const json& at(const char* key) { return object_.at(key); }
  std::string path(const char* key) const { return where_.empty() ? key : where_ + "." + key; }

  void text(const char* key, std::string& into) {
    if (!has(key)) return;
    if (!at(key).is_string() || at(key).get<std::string>().find('\0') != std::string::npos) {
      wrong(path(key), "must be a string");
    }
    into = at(key).get<std::string>();
  }
  void number(const char* key, double low, double high, double& into) {
    if (!has(key)) return;
    const double value = at(key).is_number() ? at(key).get<double>() : NAN;
    if (!(value >= low && value <= high)) {
      wrong(path(key), fmt::format("must be a number from {} to {}", low, high));
    }
    into = value;
  }
  /// A quantity with its unit, by units.h.
  template <typename Parse>
  void quantity(const char* key, Parse parse, double scale, double& into) {
    if (!has(key)) return;
    std::string value;
    text(key, value);
    try {
      into = static_cast<double>(parse(value)) * scale;
    } catch (const UnitError& error) {
      wrong(path(key), error.what());
    }
    if (!(into > 0)) wrong(path(key), "must be above 0");
  }
  void duration(const char* key, std::chrono::milliseconds& into) {
    double ms = static_cast<double>(into.count());
    quantity(key, parse_time_ns, 1e-6, ms);
    if (ms < 10 || ms > 86'400'000) wrong(path(key), "must be from 10ms to a day");
    into = std::chrono::milliseconds(static_cast<std::int64_t>(ms));
  }
  void finish() const {
    for (const auto& [key, value] : object_.items()) {
      if (!known_.contains(key))
        wrong(path(key.c_str()), "no such key; docs/operations.md lists them");
    }
  }

 private:
  const json& object_;
  std::string where_;
  std::set<std::string> known_;
};

/// Throws what nlohmann says, from where it says it.
json parsed(const std::string& text) {
  try {
    return json::parse(text);
  } catch (const json::parse_error& error) {
    const std::string why = error.what();
    const auto at = why.find("line ");
    throw std::runtime_error("no valid JSON: " + why.substr(at == std::string::npos ? 0 : at));
  }
}

std::string host_name() {
  char name[256] = {};
  if (::gethostname(name, sizeof name - 1) != 0 || name[0] == 0) return "localhost";
  return name;
}

Mode mode_of(const std::string& text) {
  const auto mode = mode_named(text);
  if (!mode) wrong("mode", "must be \"off\", \"advise\" or \"automatic\"");
  return *mode;
}

balancer::PolicyConfig policy_of(balancer::Goal goal, std::chrono::milliseconds interval,
                                 const json& own) {
  json policy = json::parse(balancer::to_json(live_policy(goal, interval)));
  policy.update(own);
  policy["goal"] = goal_name(goal);
  return balancer::parse_policy(policy.dump());
}

void read_policy(Section& section, NodeConfig& config) {
  std::string text = goal_name(balancer::Goal::kBalance);
  section.text("goal", text);
  const auto goal = goal_named(text);
  if (!goal) wrong("goal", "must be \"balance\" or \"consolidate\"");
  json own = json::object();
  if (section.has("policy")) own = section.at("policy");
  if (!own.is_object()) wrong("policy", "must be an object");
  if (own.contains("goal")) wrong("policy.goal", "is the key \"goal\" of the file itself");
  try {
    for (const auto each : {balancer::Goal::kBalance, balancer::Goal::kConsolidate}) {
      config.policies.at(static_cast<std::size_t>(each)) = policy_of(each, config.interval, own);
    }
  } catch (const std::runtime_error& error) {
    wrong("policy", error.what());
  }
  config.policy = config.policies.at(static_cast<std::size_t>(*goal));
}

void read_peers(Section& section, NodeConfig& config) {
  if (!section.has("peers")) return;
  const json& list = section.at("peers");
  if (!list.is_array()) wrong("peers", "must be an array");
  for (const json& item : list) {
    Section peer(item, "peers[]");
    PeerConfig one;
    peer.text("name", one.name);
    peer.text("address", one.address);
    peer.finish();
    if (const std::string why = peer_complaint(config, one); !why.empty()) wrong("peers[]", why);
    config.peers.push_back(std::move(one));
  }
}

void read_tls(Section& section, NodeConfig& config) {
  if (!section.has("tls")) return;
  Section tls(section.at("tls"), "tls");
  tls::Files files;
  tls.text("ca", files.ca);
  tls.text("certificate", files.certificate);
  tls.text("key", files.key);
  tls.finish();
  if (files.ca.empty() || files.certificate.empty() || files.key.empty()) {
    wrong("tls", "needs \"ca\", \"certificate\" and \"key\"");
  }
  for (std::string* path : {&files.ca, &files.certificate, &files.key}) {
    *path = std::filesystem::absolute(*path).string();
  }
  config.tls = files;
}

void read_transport(Section& section, NodeConfig& config) {
  section.text("transport", config.transport);
  if (config.transport != "auto" && config.transport != "rdma" && config.transport != "tcp") {
    wrong("transport", "must be \"auto\", \"rdma\" or \"tcp\"");
  }
}

void read_lists(Section& section, NodeConfig& config) {
  if (section.has("capabilities")) {
    const json& list = section.at("capabilities");
    if (!list.is_array() || list.size() > 64 ||
        !std::all_of(list.begin(), list.end(), [](const json& v) { return v.is_string(); })) {
      wrong("capabilities", "must be an array of at most 64 strings");
    }
    config.capabilities = list.get<std::vector<std::string>>();
  }
  if (section.has("power_watts")) {
    const json& list = section.at("power_watts");
    if (!list.is_array() || list.size() != config.power_watts.size() ||
        !std::all_of(list.begin(), list.end(),
                     [](const json& v) { return v.is_number() && v.get<double>() >= 0; })) {
      wrong("power_watts", "must be 11 numbers: watts at 0, 10 ... 100 % load");
    }
    config.power_watts = list.get<std::array<double, 11>>();
  }
}

}  // namespace

const char* mode_name(Mode mode) {
  switch (mode) {
    case Mode::kOff:
      return "off";
    case Mode::kAdvise:
      return "advise";
    case Mode::kAutomatic:
      break;
  }
  return "automatic";
}

const char* goal_name(balancer::Goal goal) {
  return goal == balancer::Goal::kBalance ? "balance" : "consolidate";
}

std::optional<Mode> mode_named(const std::string& text) {
  for (const Mode mode : {Mode::kOff, Mode::kAdvise, Mode::kAutomatic}) {
    if (text == mode_name(mode)) return mode;
  }
  return {};
}

std::optional<balancer::Goal> goal_named(const std::string& text) {
  for (const auto goal : {balancer::Goal::kBalance, balancer::Goal::kConsolidate}) {
    if (text == goal_name(goal)) return goal;
  }
  return {};
}

std::string peer_complaint(const NodeConfig& config, const PeerConfig& peer) {
  if (!name_complaint(peer.name).empty()) {
    return "a node's name follows the rules of guests' names: " + name_complaint(peer.name);
  }
  if (peer.name == config.name) return fmt::format("{} is this node itself", peer.name);
  if (std::any_of(config.peers.begin(), config.peers.end(),
                  [&](const PeerConfig& other) { return other.name == peer.name; })) {
    return fmt::format("{} is there twice", peer.name);
  }
  const std::string why = destination_complaint(peer.address);
  return why.empty() ? "" : fmt::format("the address of {}: {}", peer.name, why);
}

balancer::PolicyConfig live_policy(balancer::Goal goal, std::chrono::milliseconds interval) {
  balancer::PolicyConfig policy = balancer::default_policy(goal);
  const double seconds = std::chrono::duration<double>(interval).count();
  const auto samples = [&](double span, int most) {
    return std::clamp(static_cast<int>(std::lround(span / seconds)), 1, most);
  };
  policy.fast_weight = std::clamp(seconds / 5, 0.05, 0.5);
  policy.slow_samples = samples(300, 3600);
  policy.hot_n = samples(30, 60);
  policy.hot_k = std::max(1, policy.hot_n * 2 / 3);
  // The defaults are for samples of five minutes. Shorter ones say less of the next minutes, and
  // what strays in them evens out within.
  const double weight = std::min(1.0, seconds / 300);
  policy.sample_share *= weight;
  policy.spread_weight *= weight;
  // Averages of seconds: the fast one has to show a hot spot within a minute.
  if (goal == balancer::Goal::kBalance) policy.trend_share = 0.7;
  policy.deadband = 0.1;
  policy.horizon_seconds = 900;
  policy.cooldown_seconds = 300;
  policy.settle_seconds = 60;
  policy.hold_seconds = 3600;
  policy.incoming_limit = 1;
  policy.outgoing_limit = 1;
  policy.moves_per_round = 1;
  return policy;
}

NodeConfig parse_node_config(const std::string& text) {
  const json file = parsed(text);
  Section section(file, "");
  NodeConfig config;
  config.name = host_name();
  section.text("name", config.name);
  if (const std::string why = name_complaint(config.name); !why.empty()) {
    wrong("name", "a node's name follows the rules of guests' names: " + why);
  }
  section.text("listen", config.listen);
  section.text("receive_host", config.receive_host);
  config.directory = "/var/lib/godwit";
  section.text("directory", config.directory);
  section.text("runtime", config.runtime);
  if (config.runtime.empty()) config.runtime = runtime_directory();
  read_tls(section, config);
  read_transport(section, config);
  bool insecure = false;
  for (const auto& [key, flag] : {std::pair{"insecure", &insecure},
                                  {"compress", &config.compress},
                                  {"rdma_pin", &config.rdma_pin}}) {
    if (!section.has(key)) continue;
    if (!section.at(key).is_boolean()) wrong(key, "must be true or false");
    *flag = section.at(key).get<bool>();
  }
  read_peers(section, config);
  section.number("cpus", 0.01, 65536, config.cpus);
  section.quantity("memory", parse_size, 0x1p-20, config.memory);
  section.quantity("link", parse_rate, 1.0 / 8e6, config.link);
  read_lists(section, config);
  std::string mode = mode_name(config.mode);
  section.text("mode", mode);
  config.mode = mode_of(mode);
  section.duration("interval", config.interval);
  section.duration("reservation", config.reservation);
  read_policy(section, config);
  section.text("sleep_hook", config.sleep_hook);
  section.text("wake_hook", config.wake_hook);
  section.duration("sleep_after", config.sleep_after);
  section.duration("hook_timeout", config.hook_timeout);
  section.duration("wake_timeout", config.wake_timeout);
  section.finish();

  if (!config.listen.empty()) {
    try {
      const HostPort where = parse_host_port(config.listen);
      if (config.receive_host.empty()) config.receive_host = where.host;
    } catch (const std::invalid_argument& error) {
      wrong("listen", error.what());
    }
    if (!config.tls && !insecure) {
      wrong("listen",
            "without \"tls\" whoever reaches it rules this host: give certificates, or say "
            "\"insecure\": true");
    }
  }
  return config;
}

NodeConfig read_node_config(const std::string& path) {
  if (std::filesystem::is_directory(path)) {
    throw std::runtime_error(fmt::format("{}: is a directory, not a file", path));
  }
  std::ifstream file(path);
  if (!file) throw std::runtime_error(fmt::format("{}: {}", path, std::strerror(errno)));
  const std::string text{std::istreambuf_iterator<char>(file), {}};
  try {
    return parse_node_config(text);
  } catch (const std::runtime_error& error) {
    throw std::runtime_error(fmt::format("{}: {}", path, error.what()));
  }
}

void make_directories(const NodeConfig& config) {
  for (const auto& [key, path] : {std::pair{"runtime", config.runtime},
                                  {"directory", config.directory + "/guests"},
                                  {"directory", config.directory + "/log"},
                                  {"directory", config.directory + "/console"}}) {
    std::error_code error;
    std::filesystem::create_directories(path, error);
    if (!error) continue;
    wrong(key,
          fmt::format("{} cannot be made: {}; create it, or name another", path, error.message()));
  }
}

}  // namespace godwit::node
