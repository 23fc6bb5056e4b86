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

/// What must survive a restart of the node; the guest itself does anyway.
void Node::keep(const ManagedGuest& guest) const {
  const std::string path = fmt::format("{}/guests/{}.json", config_.directory, guest.name);
  const json value{
      {"attributes", to_json(guest.attributes)},
      {"pid", guest.process.pid()},
      {"api", guest.api},
      {"cpus", guest.cpus},
      {"memory", guest.memory},
      {"reserved", guest.reserved},
      {"last_move", guest.last_move},
      {"heat", guest.heat},
      {"left", guest.left},
      {"coming",
       {{"from", guest.coming.from}, {"record", guest.coming.record}, {"when", guest.coming.when}}},
      {"hvc", guest.hvc}};
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
  const Attributes attributes = attributes_of(field(kept, "attributes"));
  ManagedGuest& guest = add_guest(name, GuestProcess::adopt(name, pid));
  guest.attributes = attributes;
  guest.take_size(kept);
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
/// was killed, whose process would wait for ever; or a guest that has ended; or one of another
/// runtime directory, which lives on.
void Node::end_orphans() const {
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
    if (number_in(kept, "reserved").value_or(0) != 0 && pid > 0 && words.rfind(ours, 0) == 0 &&
        words.find(std::string("\0", 1) + name + std::string("\0", 1)) != std::string::npos) {
      ::kill(pid, SIGTERM);
    }
    std::filesystem::remove(entry.path(), ignored);
  }
}

}  // namespace godwit::node
