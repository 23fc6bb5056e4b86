// list: every guest that answers in the runtime directory.
#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "node/commands.h"
#include "node/control_client.h"
#include "node/control_socket.h"
#include "node/daemon/json_fields.h"
#include "node/exit_codes.h"
#include "node/local_node.h"
#include "node/options.h"
#include "node/report_text.h"
#include "node/units.h"

namespace godwit::node {

using nlohmann::json;

namespace {

void print_table(const json& guests) {
  fmt::print("{:<20} {:<10} {:>7} {:>5} {:>8}  {:<14} {}\n", "NAME", "STATE", "MEMORY", "VCPUS",
             "PID", "UPTIME", "MOVE");
  for (const json& guest : guests) {
    fmt::print("{:<20} {:<10} {:>7} {:>5} {:>8}  {:<14} {}\n", guest.value("name", "?"),
               guest.value("state", "?"), format_size(guest.value("memory_bytes", 0ull)),
               guest.value("cpus", 0), guest.value("pid", 0),
               format_time_ms(guest.value("uptime_ms", 0.0)),
               progress_text(guest.value("migration", json())));
  }
}

/// What a node says of its guests.
void print_node_table(const json& guests) {
  fmt::print("{:<20} {:<10} {:>13} {:>7} {:>5} {:>8}  {}\n", "NAME", "STATE", "MEMORY", "LOAD",
             "VCPUS", "PID", "MOVE");
  for (const json& guest : guests) {
    const auto bytes = [&](const char* key) {
      return format_size(static_cast<std::uint64_t>(number_in(guest, key).value_or(0) * 0x1p20));
    };
    fmt::print("{:<20} {:<10} {:>13} {:>7.2f} {:>5} {:>8}  {}\n", guest.value("name", "?"),
               guest.value("state", "?"), bytes("memory_used") + "/" + bytes("memory"),
               number_in(guest, "demand").value_or(0), guest.value("cpus", 0),
               guest.value("pid", 0), progress_text(guest.value("migration", json())));
  }
}

json guests_of_this_host() {
  json guests = json::array();
  for (const std::string& path : live_sockets()) {
    try {
      guests.push_back(ControlClient(path).get("/v1/status"));
    } catch (const ClientError& error) {  // it ended meanwhile, or hangs: the others still count
      fmt::print(stderr, "godwit: list: {}\n", error.what());
    }
  }
  return guests;
}

}  // namespace

int list_command(const Words& words) {
  Options options("list [--node SOCKET] [--json]",
                  "Shows the guests of this host that belong to this user, or those of a node.",
                  "Guests started with --api PATH are elsewhere: see `godwit status PATH`.\n"
                  "Exit codes: 0 done (also when there is none), 1 failed, 2 wrong usage.");
  options.flag("json",
               "print a JSON array: of what `godwit status --json` prints; of a node's guests what "
               "it knows of each");
  if (!LocalNode::add_option(options).parse(words)) return kExitOk;
  const bool of_node = options.has("node");
  const json guests = of_node
                          ? LocalNode(options).request("GET", "/v1/guests", nullptr, kNodeAnswers)
                          : guests_of_this_host();
  if (options.on("json")) {
    fmt::print("{}\n", guests.dump(2));
  } else if (guests.empty()) {
    fmt::print("no guests\n");
  } else if (of_node) {
    print_node_table(guests);
  } else {
    print_table(guests);
  }
  return kExitOk;
}

}  // namespace godwit::node
