// Node's guests: started, adopted, measured, and forgotten.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <tuple>

#include "node/control_socket.h"
#include "node/daemon/json_fields.h"
#include "node/daemon/node.h"
#include "node/device_options.h"
#include "node/machine_options.h"
#include "node/tls_options.h"

namespace godwit::node {

using nlohmann::json;
using std::chrono::milliseconds;
using Clock = std::chrono::steady_clock;

namespace {

constexpr milliseconds kGuestAnswers{1000};
constexpr milliseconds kGuestBoots{120'000};  // its kernel is unpacked on the way
constexpr milliseconds kGuestEnds{3000};      // once it has moved away
constexpr double kHeatHalfLife = 3600;        // seconds

json ask_guest(const std::string& api, const char* target) {
  return NodeClient(api, nullptr).request("GET", target, nullptr, kGuestAnswers);
}

std::string text_or_complain(const json& request, const char* key) {
  const auto text = text_in(request, key);
  if (!text) throw BadRequest(fmt::format("{} must be a string", key));
  return *text;
}

/// The words of `godwit run` for the description of a guest.
std::vector<std::string> words_of(const json& request, const std::string& name) {
  std::vector<std::string> words{"run", "--name", name, "--kernel",
                                 text_or_complain(request, "kernel")};
  for (const char* key : {"initrd", "append", "cpu"}) {
    if (field(request, key).is_null()) continue;
    words.insert(words.end(), {fmt::format("--{}", key), text_or_complain(request, key)});
  }
  const json& memory = field(request, "memory_bytes");
  const json& cpus = field(request, "cpus");
  if (!memory.is_number_unsigned()) throw BadRequest("memory_bytes must be a whole number");
  words.insert(words.end(), {"--memory", fmt::format("{}B", memory.get<std::uint64_t>())});
  if (!cpus.is_null()) {
    if (!cpus.is_number_unsigned()) throw BadRequest("cpus must be a whole number");
    words.insert(words.end(), {"--cpus", std::to_string(cpus.get<std::uint64_t>())});
  }
  for (const json& disk : list_in(request, "disks")) {
    const bool read_only = number_in(disk, "read_only").value_or(0) != 0;
    words.insert(words.end(), {"--disk", disk_text({text_or_complain(disk, "path"), read_only,
                                                    text_in(disk, "cache").value_or("") == "none",
                                                    text_in(disk, "serial").value_or("")})});
  }
  for (const json& net : list_in(request, "nets")) {
    vmm::NetConfig config{text_or_complain(net, "tap"), text_in(net, "mac").value_or(""), 0,
                          text_in(net, "bridge").value_or("")};
    config.mtu = static_cast<unsigned>(std::clamp(number_in(net, "mtu").value_or(0), 0.0, 1e5));
    words.insert(words.end(), {"--net", net_text(config)});
  }
  for (const char* flag : {"rng", "balloon"}) {
    if (number_in(request, flag).value_or(0) != 0) words.push_back(fmt::format("--{}", flag));
  }
  if (const json& vsock = field(request, "vsock"); !vsock.is_null()) {
    words.insert(words.end(),
                 {"--vsock", fmt::format("cid={:.0f},path={}", number_in(vsock, "cid").value_or(0),
                                         text_or_complain(vsock, "path"))});
  }
  if (number_in(request, "huge_pages").value_or(0) != 0) words.emplace_back("--hugepages");
  return words;
}

}  // namespace

std::string Node::log_of(const std::string& name) const {
  return fmt::format("{}/log/{}.log", config_.directory, name);
}

/// Where a guest of this node prints, and where it is spoken to.
void Node::add_serve_words(std::vector<std::string>& words, const std::string& name,
                           bool hvc) const {
  const std::string console = fmt::format("file:{}/console/{}", config_.directory, name);
  words.insert(words.end(), {"--console", console + ".log", "--api",
                             fmt::format("{}/{}.sock", config_.runtime, name)});
  if (hvc) words.insert(words.end(), {"--hvc", console + ".hvc"});
  if (!config_.tls) return;
  for (std::string& word : tls_words(*config_.tls)) words.push_back(std::move(word));
}

/// The last line that a guest's process wrote: why it ended.
std::string Node::last_words(const std::string& name) const {
  std::ifstream log(log_of(name));
  std::string last;
  for (std::string line; std::getline(log, line);) {
    if (!line.empty()) last = line;
  }
  return last.empty() ? "it said nothing" : last;
}

ManagedGuest* Node::find(const std::string& name) {
  const auto found = guests_.find(name);
  return found == guests_.end() ? nullptr : &found->second;
}

ManagedGuest& Node::add_guest(const std::string& name, GuestProcess process) {
  ManagedGuest guest(std::move(process));
  guest.id = next_id_++;
  guest.name = name;
  guest.api = fmt::format("{}/{}.sock", config_.runtime, name);
  return guests_.insert_or_assign(name, std::move(guest)).first->second;
}

/// What must survive a restart of the node; the guest itself does anyway.
void Node::keep(const ManagedGuest& guest) const {
  const std::string path = fmt::format("{}/guests/{}.json", config_.directory, guest.name);
  const json value{{"attributes", to_json(guest.attributes)},
                   {"pid", guest.process.pid()},
                   {"last_move", guest.last_move},
                   {"heat", guest.heat},
                   {"left", guest.left},
                   {"hvc", guest.hvc}};
  std::ofstream(path + ".new") << value.dump() << '\n';
  std::error_code ignored;
  std::filesystem::rename(path + ".new", path, ignored);
}

void Node::forget(const std::string& name) {
  guests_.erase(name);
  std::error_code ignored;
  std::filesystem::remove(fmt::format("{}/guests/{}.json", config_.directory, name), ignored);
}

/// A guest that has moved away is on the list until its process has ended, and may come back
/// before a round has seen that. Waits for it; a guest that stays is left alone.
void Node::see_off(std::unique_lock<std::mutex>& lock, const std::string& name) {
  for (const auto end = Clock::now() + kGuestEnds; Clock::now() < end;) {
    ManagedGuest* guest = find(name);
    if (guest == nullptr || !guest->gone) return;
    if (!guest->process.alive()) return forget(name);
    changed_.wait_for(lock, milliseconds(10));
  }
}

void Node::adopt() {
  std::error_code ignored;
  for (const auto& entry : std::filesystem::directory_iterator(config_.runtime, ignored)) {
    const std::string path = entry.path().string();
    if (entry.path().extension() != ".sock" || !socket_is_live(path)) continue;
    const std::string name = entry.path().stem().string();
    std::ifstream file(fmt::format("{}/guests/{}.json", config_.directory, name));
    const json kept = json::parse(file, nullptr, false);
    try {
      json status;
      try {
        status = ask_guest(path, "/v1/status");
      } catch (const ClientError&) {
        // Too busy to answer, but one of ours: the rounds go on asking.
        if (!number_in(kept, "pid")) throw;
        status = {{"name", name}, {"pid", kept["pid"]}, {"hvc", field(kept, "hvc")}};
      }
      if (text_in(status, "name") != name) continue;  // another user's idea of a socket
      take_back(name, status, kept);
    } catch (const std::exception& error) {
      fmt::print(stderr, "godwit: node: {} is not adopted: {}\n", path, error.what());
    }
  }
}

/// Of an earlier node, which kept what is in `kept`.
void Node::take_back(const std::string& name, const json& status, const json& kept) {
  const auto pid = static_cast<pid_t>(number_in(status, "pid").value_or(0));
  const Attributes attributes = attributes_of(field(kept, "attributes"));
  ManagedGuest& guest = add_guest(name, GuestProcess::adopt(name, pid));
  guest.attributes = attributes;
  guest.hvc = number_in(status, "hvc").value_or(0) != 0;
  guest.last_move = std::min(seconds(), number_in(kept, "last_move").value_or(-1e18));
  guest.heat = std::clamp(number_in(kept, "heat").value_or(0), 0.0, 100.0);
  guest.left = text_in(kept, "left").value_or("");
  fmt::print(stderr, "godwit: node: adopted {} (pid {})\n", name, pid);
}

/// Places that were reserved when the node was killed: their processes would wait for ever.
void Node::end_orphans() const {
  std::error_code ignored;
  for (const auto& entry :
       std::filesystem::directory_iterator(config_.directory + "/guests", ignored)) {
    const std::string name = entry.path().stem().string();
    if (entry.path().extension() != ".json" || guests_.contains(name)) continue;
    if (socket_is_live(fmt::format("{}/{}.sock", config_.runtime, name))) continue;  // it runs
    std::ifstream file(entry.path());
    const json kept = json::parse(file, nullptr, false);
    const auto pid = static_cast<pid_t>(number_in(kept, "pid").value_or(0));
    std::ifstream commands(fmt::format("/proc/{}/cmdline", pid));
    const std::string words{std::istreambuf_iterator<char>(commands), {}};
    const std::string ours = std::string("godwit\0receive\0", 15);
    if (pid > 0 && words.rfind(ours, 0) == 0 &&
        words.find(std::string("\0", 1) + name + std::string("\0", 1)) != std::string::npos) {
      ::kill(pid, SIGTERM);
    }
    std::filesystem::remove(entry.path(), ignored);
  }
}

json Node::start(const json& request) {
  if (!request.is_object()) throw BadRequest("the body must be a JSON object");
  const std::string name = text_or_complain(request, "name");
  if (const std::string why = name_complaint(name); !why.empty()) throw BadRequest(why);
  Attributes attributes;
  try {
    attributes = attributes_of(field(request, "attributes"));
  } catch (const std::runtime_error& error) {
    throw BadRequest(error.what());
  }
  std::vector<std::string> words = words_of(request, name);
  const bool hvc = number_in(request, "hvc").value_or(0) != 0;
  add_serve_words(words, name, hvc);
  std::string api;
  {
    std::unique_lock lock(mutex_);
    see_off(lock, name);
    if (state_ == State::kAsleep && !sleep_.powering_down) get_up("a guest is started here");
    if (state_ != State::kOpen)
      throw Conflict(config_.name + " is closed: godwit undrain opens it");
    if (find(name) != nullptr)
      throw Conflict(fmt::format("a guest called {} is here already", name));
    const balancer::HostView self = self_view();
    const double memory =
        static_cast<double>(request["memory_bytes"].get<std::uint64_t>()) / 0x1p20;
    if (self.memory_used + memory > self.memory) {
      throw Conflict(fmt::format("no room: {} needs {:.0f} MB, {:.0f} of {:.0f} MB are taken", name,
                                 memory, self.memory_used, self.memory));
    }
    ManagedGuest& guest = add_guest(name, GuestProcess::start(name, words, log_of(name)));
    guest.attributes = attributes;
    guest.memory = memory;
    guest.hvc = hvc;
    keep(guest);
    api = guest.api;
  }
  for (const auto end = Clock::now() + kGuestBoots; Clock::now() < end;) {
    try {
      json status = ask_guest(api, "/v1/status");
      if (text_in(status, "state") != "booting") return status;
    } catch (const ClientError&) {  // not there yet
    }
    {
      const std::lock_guard lock(mutex_);
      ManagedGuest* guest = find(name);
      if (guest == nullptr || !guest->process.alive()) {
        if (guest != nullptr) forget(name);
        throw std::runtime_error(fmt::format("{} did not start: {}", name, last_words(name)));
      }
    }
    std::this_thread::sleep_for(milliseconds(20));
  }
  throw std::runtime_error(fmt::format("{} does not answer; its log is {}", name, log_of(name)));
}

void Node::look_after_guests(double now) {
  std::vector<std::tuple<std::string, std::uint64_t, std::string>> list;
  {
    const std::lock_guard lock(mutex_);
    for (const auto& [name, guest] : guests_) list.emplace_back(name, guest.id, guest.api);
  }
  const double decay =
      std::exp2(-std::chrono::duration<double>(config_.interval).count() / kHeatHalfLife);
  for (const auto& [name, id, api] : list) {
    json load;
    json migration;
    try {
      if (socket_is_live(api)) {
        load = ask_guest(api, "/v1/load");
        if (text_in(load, "state") == "migrating" || text_in(load, "state") == "in-doubt")
          migration = ask_guest(api, "/v1/migration");
      }
    } catch (const ClientError&) {  // ended just now, or hangs: its state tells
    }
    const std::lock_guard lock(mutex_);
    ManagedGuest* guest = find(name);
    if (guest == nullptr || guest->id != id) continue;  // the answer is of the one before
    guest->heat *= decay;
    if (load.is_object()) guest->measure(load, Clock::now(), policy_);
    guest->migration = field(migration, "active");
    if (guest->reserved) settle_reservation(*guest, now);
    if (!guest->promised.empty()) look_after_promise(*guest);
    if (!guest->process.alive()) {
      if (!guest->moving)
        fmt::print(stderr, "godwit: node: {} ended: {}\n", name, last_words(name));
      forget(name);
    } else if (!load.is_object() && !guest->reserved && guest->state != "starting") {
      guest->state = "silent";
    }
  }
  const HostSample host = host_load_.sample();
  const std::lock_guard lock(mutex_);
  host_ = host;
  changed_.notify_all();
}

}  // namespace godwit::node
