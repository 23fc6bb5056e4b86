// list: every guest that answers in the runtime directory.
#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "node/commands.h"
#include "node/control_client.h"
#include "node/control_socket.h"
#include "node/exit_codes.h"
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

}  // namespace

int list_command(const Words& words) {
  Options options("list [--json]", "Shows the guests of this host that belong to this user.",
                  "Guests started with --api PATH are elsewhere: see `godwit status PATH`.\n"
                  "Exit codes: 0 done (also when there is none), 1 failed, 2 wrong usage.");
  if (!options.flag("json", "print a JSON array of what `godwit status --json` prints")
           .parse(words)) {
    return kExitOk;
  }
  json guests = json::array();
  for (const std::string& path : live_sockets()) {
    try {
      guests.push_back(ControlClient(path).get("/v1/status"));
    } catch (const ClientError& error) {  // it ended meanwhile, or hangs: the others still count
      fmt::print(stderr, "godwit: list: {}\n", error.what());
    }
  }
  if (options.on("json")) {
    fmt::print("{}\n", guests.dump(2));
  } else if (guests.empty()) {
    fmt::print("no guests\n");
  } else {
    print_table(guests);
  }
  return kExitOk;
}

}  // namespace godwit::node
