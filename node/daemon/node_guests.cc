// Node's guests: started, measured, and forgotten.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <future>

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

constexpr milliseconds kGuestBoots{120'000};  // its kernel is unpacked on the way
constexpr milliseconds kGuestEnds{3000};      // once it has moved away
constexpr double kHeatHalfLife = 3600;        // seconds

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
  // What is pinned is not given back to a balloon.
  if (config_.rdma_pin && std::find(words.begin(), words.end(), "--balloon") == words.end()) {
    words.emplace_back("--rdma-pin");
  }
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

GuestProcess Node::start_process(const std::string& name, const std::vector<std::string>& words) {
  GuestProcess process = GuestProcess::start(name, words, log_of(name));
  groups_.enter(name, process.pid());
  return process;
}

ManagedGuest* Node::find(const std::string& name) {
  const auto found = guests_.find(name);
  return found == guests_.end() ? nullptr : &found->second;
}

ManagedGuest& Node::add_guest(const std::string& name, GuestProcess process) {
  ManagedGuest guest(process);
  guest.id = next_id_++;
  guest.name = name;
  guest.api = fmt::format("{}/{}.sock", config_.runtime, name);
  guest.line = std::make_shared<NodeClient>(guest.api, nullptr);
  return guests_.insert_or_assign(name, std::move(guest)).first->second;
}

void Node::forget(const std::string& name) {
  guests_.erase(name);
  groups_.leave(name);
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
    const double memory =
        static_cast<double>(request["memory_bytes"].get<std::uint64_t>()) / 0x1p20;
    if (const std::string why = no_memory_for(memory); !why.empty()) {
      ManagedGuest wanted(GuestProcess::adopt(0));
      wanted.name = name;
      wanted.attributes = attributes;
      wanted.memory = memory;
      throw Conflict(fmt::format("no room: {} needs {:.0f} MB, {}{}", name, memory, why,
                                 room_elsewhere(wanted)));
    }
    know_capabilities(attributes.needs);
    std::string rule = rule_against(attributes);
    if (rule.empty()) rule = group_elsewhere(attributes);
    if (!rule.empty()) {
      throw Conflict(fmt::format("the rules keep {} off {}: {}", name, config_.name, rule));
    }
    ManagedGuest& guest = add_guest(name, start_process(name, words));
    guest.attributes = attributes;
    guest.take_size({{"cpus", field(request, "cpus")}, {"memory", memory}});
    guest.hvc = hvc;
    keep(guest);
    api = guest.api;
  }
  for (const auto end = Clock::now() + kGuestBoots; Clock::now() < end;) {
    try {
      json status = ask_guest(NodeClient(api, nullptr), "/v1/status");
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

/// What a guest says of itself; null where it says nothing.
struct Node::Answer {
  json load, migration;
  Clock::time_point when;
};

Node::Answer Node::ask_for_load(const NodeClient& guest, bool moving) {
  Answer answer;
  try {
    answer.load = ask_guest(guest, "/v1/load");
    const std::string state = text_in(answer.load, "state").value_or("");
    if (moving || state == "migrating" || state == "in-doubt") {
      answer.migration = ask_guest(guest, "/v1/migration");
    }
  } catch (const ClientError&) {  // ended just now, or hangs: its state tells
  }
  answer.when = Clock::now();
  return answer;
}

/// All guests are asked at a time: one that hangs holds up the others for kGuestAnswers, once.
void Node::look_after_guests(double now) {
  struct Asked {
    std::string name;
    std::uint64_t id;
    std::future<Answer> answer;
  };
  std::vector<Asked> asked;
  {
    const std::lock_guard lock(mutex_);
    for (const auto& [name, guest] : guests_) {
      asked.push_back({name, guest.id,
                       std::async(std::launch::async, [line = guest.line, moving = guest.moving] {
                         return ask_for_load(*line, moving);
                       })});
    }
  }
  for (Asked& one : asked) {
    const Answer answer = one.answer.get();
    const std::lock_guard lock(mutex_);
    take_answer(one.name, one.id, answer, now);
  }
  const HostSample host = host_load_.sample();
  const double decay =
      std::exp2(-std::chrono::duration<double>(config_.interval).count() / kHeatHalfLife);
  const std::lock_guard lock(mutex_);
  for (auto& [name, guest] : guests_) guest.heat *= decay;
  host_ = host;
  ++rounds_;
  changed_.notify_all();
}

/// Between two rounds. Blocks.
void Node::look_after(const std::string& name) {
  std::shared_ptr<const NodeClient> line;
  std::uint64_t id = 0;
  {
    const std::lock_guard lock(mutex_);
    const ManagedGuest* guest = find(name);
    if (guest == nullptr) return;
    line = guest->line;
    id = guest->id;
  }
  const Answer answer = ask_for_load(*line, false);
  const std::lock_guard lock(mutex_);
  take_answer(name, id, answer, seconds());
  changed_.notify_all();
}

void Node::take_answer(const std::string& name, std::uint64_t id, const Answer& answer,
                       double now) {
  ManagedGuest* guest = find(name);
  if (guest == nullptr || guest->id != id) return;  // the answer is of the one before
  const double memory = guest->memory;
  if (answer.load.is_object()) guest->measure(answer.load, answer.when, policy_);
  if (guest->memory != memory) keep(*guest);  // one that we did not start
  guest->migration = field(answer.migration, "active");
  if (guest->reserved) settle_reservation(*guest, now);
  if (guest->unattended) settle_unattended(*guest, answer.migration);
  if (!guest->promised.empty()) look_after_promise(*guest);
  if (!guest->process.alive()) {
    if (!guest->moving && !guest->gone)
      fmt::print(stderr, "godwit: node: {} ended: {}\n", name, last_words(name));
    forget(name);
  } else if (!answer.load.is_object() && !guest->reserved && guest->state != "starting") {
    guest->state = "silent";
  }
}

}  // namespace godwit::node
