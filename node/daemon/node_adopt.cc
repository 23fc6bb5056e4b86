// Node's guests over a restart: what is kept of them on disk, and how the next node finds them.
#include <fmt/format.h>

#include <algorithm>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <future>

#include "node/control_socket.h"
#include "node/daemon/json_fields.h"
#include "node/daemon/node.h"

namespace godwit::node {

using nlohmann::json;
using Clock = std::chrono::steady_clock;

/// What must survive a restart of the node; the guest itself does anyway.
void Node::keep(const ManagedGuest& guest) const {
  const std::string path = fmt::format("{}/guests/{}.json", config_.directory, guest.name);
  json value{
      {"attributes", to_json(guest.attributes)},
      {"pid", guest.process.pid()},
      {"api", guest.api},
      {"cpus", guest.cpus},
      {"memory", guest.memory},
      {"last_move", guest.last_move},
      {"heat", guest.heat},
      {"left", guest.left},
      {"coming",
       {{"from", guest.coming.from}, {"record", guest.coming.record}, {"when", guest.coming.when}}},
      {"hvc", guest.hvc}};
  if (guest.moving) {
    value["going"] = {
        {"to", guest.going.to}, {"address", guest.going.address}, {"record", guest.going.record}};
  }
  if (guest.reserved) {
    value["reservation"] = guest.reservation;
    value["description"] = description_of(guest);
  }
  std::ofstream(path + ".new") << value.dump() << '\n';
  std::error_code ignored;
  std::filesystem::rename(path + ".new", path, ignored);
}

void Node::adopt() {
  struct Found {
    std::string name, path;
    std::future<json> status;
  };
  std::vector<Found> found;
  std::error_code ignored;
  for (const auto& entry : std::filesystem::directory_iterator(config_.runtime, ignored)) {
    if (entry.path().extension() != ".sock") continue;
    const std::string path = entry.path().string();
    found.push_back({entry.path().stem().string(), path, std::async(std::launch::async, [path] {
                       return ask_guest(NodeClient(path, nullptr), "/v1/status");
                     })});
  }
  for (Found& one : found) {
    std::ifstream file(fmt::format("{}/guests/{}.json", config_.directory, one.name));
    const json kept = json::parse(file, nullptr, false);
    try {
      json status;
      try {
        status = one.status.get();
      } catch (const ClientError& error) {
        if (error.kind() == ClientError::Kind::kNobody) continue;  // left over
        // Too busy to answer, but one of ours: the rounds go on asking.
        if (!number_in(kept, "pid")) throw;
        status = {{"name", one.name}, {"pid", kept["pid"]}, {"hvc", field(kept, "hvc")}};
      }
      if (text_in(status, "name") != one.name) continue;  // another user's idea of a socket
      take_back(one.name, status, kept);
    } catch (const std::exception& error) {
      fmt::print(stderr, "godwit: node: {} is not adopted: {}\n", one.path, error.what());
    }
  }
}

/// Of an earlier node, which kept what is in `kept`.
void Node::take_back(const std::string& name, const json& status, const json& kept) {
  const auto pid = static_cast<pid_t>(number_in(status, "pid").value_or(0));
  Attributes attributes = attributes_of(field(kept, "attributes"));
  try {
    know_capabilities(attributes.needs);
  } catch (const Conflict& error) {  // it is here, but nowhere else could be told to be right
    fmt::print(stderr, "godwit: node: {} is pinned: {}\n", name, error.what());
    attributes.pinned = true;
  }
  ManagedGuest& guest = add_guest(name, GuestProcess::adopt(pid));
  guest.attributes = attributes;
  guest.take_size(kept);
  if (const json& going = field(kept, "going"); going.is_object()) {
    guest.moving = guest.unattended = true;
    guest.going = {text_in(going, "to").value_or("?"), text_in(going, "address").value_or(""),
                   record_in(going)};
  }
  if (text_in(status, "state") == "migrating") guest.state = "migrating";
  if (const auto reservation = text_in(kept, "reservation")) {
    guest.take_description(field(kept, "description"), policy_);
    guest.reserved = true;
    guest.reservation = *reservation;
    guest.deadline = Clock::time_point::max();  // its socket is there: it is on its way
  }
  guest.hvc = number_in(status, "hvc").value_or(0) != 0;
  guest.last_move = std::min(seconds(), number_in(kept, "last_move").value_or(-1e18));
  guest.heat = std::clamp(number_in(kept, "heat").value_or(0), 0.0, 100.0);
  guest.left = text_in(kept, "left").value_or("");
  const json& coming = field(kept, "coming");
  guest.coming = {text_in(coming, "from").value_or(""), record_in(coming),
                  std::min(seconds(), number_in(coming, "when").value_or(-1e18))};
  fmt::print(stderr, "godwit: node: adopted {} (pid {})\n", name, pid);
}

/// What the file of a guest says that nobody answered for: a place that was reserved when the node
/// was killed, whose process would wait for ever; or a guest that has ended, or moved away; or one
/// of another runtime directory, which lives on.
void Node::end_orphans() {
  std::error_code ignored;
  for (const auto& entry :
       std::filesystem::directory_iterator(config_.directory + "/guests", ignored)) {
    const std::string name = entry.path().stem().string();
    if (entry.path().extension() != ".json" || guests_.contains(name)) continue;
    std::ifstream file(entry.path());
    const json kept = json::parse(file, nullptr, false);
    const std::string api = text_in(kept, "api").value_or("");
    if (!api.empty() && socket_is_live(api)) {
      fmt::print(stderr, "godwit: node: {} runs, but is not adopted: its socket is {}, not in {}\n",
                 name, api, config_.runtime);
      continue;
    }
    const auto pid = static_cast<pid_t>(number_in(kept, "pid").value_or(0));
    std::ifstream commands(fmt::format("/proc/{}/cmdline", pid));
    const std::string words{std::istreambuf_iterator<char>(commands), {}};
    const std::string ours = std::string("godwit\0receive\0", 15);
    if (text_in(kept, "reservation") && pid > 0 && words.rfind(ours, 0) == 0 &&
        words.find(std::string("\0", 1) + name + std::string("\0", 1)) != std::string::npos) {
      ::kill(pid, SIGTERM);
    }
    if (const json& going = field(kept, "going"); going.is_object()) {
      conclude_unattended(name, record_in(going),
                          last_report(name, text_in(going, "address").value_or("")));
    }
    std::filesystem::remove(entry.path(), ignored);
  }
}

/// Of a guest whose process has ended after an earlier node had it moved to `address`.
json Node::last_report(const std::string& name, const std::string& address) const {
  const std::string words = last_words(name);
  if (words.find(fmt::format("{} moved to {}", name, address)) != std::string::npos) {
    return {{"status", "completed"}};
  }
  return {{"status", "failed"}, {"reason", words}};
}

/// A move that an earlier node began, as the guest tells it when it is over. Under the lock.
void Node::settle_unattended(ManagedGuest& guest, const json& migration) {
  json report;
  End end = End::kFailed;
  if (!guest.process.alive()) {
    report = last_report(guest.name, guest.going.address);
  } else if (guest.state == "migrating" || !migration.is_object()) {
    return;
  } else {
    report = field(migration, "last_report");
    if (text_in(report, "to") != guest.going.address) {
      report = {{"status", "failed"}, {"reason", "the node ended before the move began"}};
      end = End::kNotBegun;
    }
  }
  if (text_in(report, "status") == "completed") end = End::kMoved;
  guest.unattended = false;
  const std::uint64_t record = guest.going.record;
  end_move(guest.name, end);
  conclude_unattended(guest.name, record, report);
}

void Node::conclude_unattended(const std::string& name, std::uint64_t record, const json& report) {
  const std::string status = text_in(report, "status").value_or("failed");
  fmt::print(stderr, "godwit: node: the move of {} that an earlier node began: {}\n", name, status);
  if (record != 0)
    conclude_record(record, outcome_of(report, text_in(report, "reason").value_or("")));
}

}  // namespace godwit::node
