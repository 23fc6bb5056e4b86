#include "node/control_api.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <initializer_list>
#include <nlohmann/json.hpp>
#include <string_view>

namespace godwit::node {

using nlohmann::json;

namespace {

constexpr std::uint64_t kMaxThrottle = 95;  // percent
constexpr std::uint64_t kMaxStreams = 16;
constexpr std::uint64_t kMaxRdmaPorts = 4;
constexpr std::uint64_t kMaxWait = 3600 * 1000;                      // milliseconds
constexpr std::uint64_t kMaxMilliseconds = 7ull * 24 * 3600 * 1000;  // a week

std::string text_of(const json& value) {
  return value.dump(-1, ' ', false, json::error_handler_t::replace);
}

ApiResponse ok(const json& value) { return {200, text_of(value)}; }
ApiResponse done() { return ok(json{{"ok", true}}); }

using Fields = std::initializer_list<std::string_view>;

/// Throws unless it is an object with no other fields than these.
void require_fields(const json& object, const char* what, Fields fields) {
  if (!object.is_object()) throw BadRequest(fmt::format("{} must be a JSON object", what));
  for (const auto& [key, value] : object.items()) {
    if (std::find(fields.begin(), fields.end(), key) == fields.end()) {
      throw BadRequest(fmt::format("unknown field \"{}\"", key));
    }
  }
}

/// The body as an object with no other fields than these; an empty body is an empty object.
json object(const ApiRequest& request, Fields fields) {
  if (request.body.empty()) return json::object();
  json body = json::parse(request.body, nullptr, false);
  require_fields(body, "the body", fields);
  return body;
}

bool boolean(const json& body, const char* field, bool fallback) {
  if (!body.contains(field)) return fallback;
  if (!body[field].is_boolean()) throw BadRequest(fmt::format("{} must be true or false", field));
  return body[field].get<bool>();
}

std::uint64_t number(const json& body, const char* field, std::uint64_t fallback,
                     std::uint64_t max) {
  if (!body.contains(field)) return fallback;
  const json& value = body[field];
  if (!value.is_number_unsigned() || value.get<std::uint64_t>() > max) {
    throw BadRequest(fmt::format("{} must be a whole number from 0 to {}", field, max));
  }
  return value.get<std::uint64_t>();
}

std::string text(const json& body, const char* field, const std::string& fallback) {
  if (!body.contains(field)) return fallback;
  if (!body[field].is_string()) throw BadRequest(fmt::format("{} must be a string", field));
  return body[field].get<std::string>();
}

/// Read by the guest's process, which runs elsewhere.
std::string absolute_path(const json& body, const char* field) {
  std::string path = text(body, field, "");
  if (path.empty() || path[0] != '/' || path.find('\0') != std::string::npos) {
    throw BadRequest(fmt::format("{} must be an absolute path", field));
  }
  return path;
}

void read_tls(const json& tls, MoveRequest& move) {
  require_fields(tls, "tls", {"ca", "certificate", "key", "name"});
  move.tls_name = text(tls, "name", "");
  if (tls.size() == (tls.contains("name") ? 1 : 0)) return;
  move.tls = tls::Files{absolute_path(tls, "ca"), absolute_path(tls, "certificate"),
                        absolute_path(tls, "key")};
}

MoveRequest move_request(const ApiRequest& request) {
  const json body = object(request, {"to", "transport", "mode", "downtime_limit_ms",
                                     "max_bandwidth", "timeout_ms", "throttle_percent", "verify",
                                     "streams", "rdma_ports", "compress", "dry_run", "tls"});
  MoveRequest move;
  move.to = text(body, "to", "");
  if (move.to.empty()) throw BadRequest("to is missing: HOST:PORT of a godwit receive");
  move.transport = text(body, "transport", move.transport);
  if (move.transport != "auto" && move.transport != "rdma" && move.transport != "tcp") {
    throw BadRequest("transport must be \"auto\", \"rdma\" or \"tcp\"");
  }
  move.mode = text(body, "mode", move.mode);
  if (move.mode != "precopy" && move.mode != "postcopy" && move.mode != "hybrid") {
    throw BadRequest("mode must be \"precopy\", \"postcopy\" or \"hybrid\"");
  }
  move.downtime_limit_ms =
      number(body, "downtime_limit_ms", move.downtime_limit_ms, kMaxMilliseconds);
  move.max_bandwidth = number(body, "max_bandwidth", move.max_bandwidth, UINT64_MAX);
  move.timeout_ms = number(body, "timeout_ms", move.timeout_ms, kMaxMilliseconds);
  move.verify = boolean(body, "verify", move.verify);
  move.throttle_percent =
      static_cast<unsigned>(number(body, "throttle_percent", move.throttle_percent, kMaxThrottle));
  move.streams = static_cast<unsigned>(number(body, "streams", move.streams, kMaxStreams));
  move.compress = boolean(body, "compress", move.compress);
  move.rdma_ports =
      static_cast<unsigned>(number(body, "rdma_ports", move.rdma_ports, kMaxRdmaPorts));
  if (move.rdma_ports == 0) throw BadRequest("rdma_ports must be at least 1");
  move.dry_run = boolean(body, "dry_run", move.dry_run);
  if (body.contains("tls")) read_tls(body["tls"], move);
  return move;
}

SnapshotRequest snapshot_request(const ApiRequest& request) {
  const json body = object(request, {"directory", "stop"});
  SnapshotRequest snapshot;
  snapshot.directory = absolute_path(body, "directory");
  snapshot.stop = boolean(body, "stop", false);
  return snapshot;
}

/// Runs one operation; its exceptions become answers.
void answer(const ApiReply& reply, const std::function<ApiResponse()>& operation) {
  ApiResponse response;
  try {
    response = operation();
  } catch (const BadRequest& error) {
    response = api_error(400, error.what());
  } catch (const Conflict& error) {
    response = api_error(409, error.what());
  } catch (const std::exception& error) {
    response = api_error(500, error.what());
  }
  reply(std::move(response));
}

struct Endpoint {
  std::string_view method;
  std::string_view target;
  ApiResponse (*run)(GuestControl&, const ApiRequest&);
};

ApiResponse pause(GuestControl& guest, const ApiRequest& request) {
  object(request, {});
  guest.pause();
  return done();
}

ApiResponse resume(GuestControl& guest, const ApiRequest& request) {
  object(request, {});
  guest.resume();
  return done();
}

ApiResponse balloon(GuestControl& guest, const ApiRequest& request) {
  const json body = object(request, {"bytes"});
  if (!body.contains("bytes")) throw BadRequest("bytes is missing: how much memory to give");
  guest.balloon(number(body, "bytes", 0, UINT64_MAX));
  return done();
}

ApiResponse stop(GuestControl& guest, const ApiRequest& request) {
  guest.stop(boolean(object(request, {"force"}), "force", false));
  return done();
}

ApiResponse cancel(GuestControl& guest, const ApiRequest& request) {
  object(request, {});
  guest.cancel_migration();
  return done();
}

ApiResponse resolve(GuestControl& guest, const ApiRequest& request) {
  const json body = object(request, {"here"});
  if (!body.contains("here")) throw BadRequest("here is missing: true or false");
  guest.resolve(boolean(body, "here", false));
  return done();
}

constexpr std::array<Endpoint, 9> kEndpoints{{
    {"GET", "/v1/status", [](GuestControl& g, const ApiRequest&) { return ok(g.status()); }},
    {"GET", "/v1/load", [](GuestControl& g, const ApiRequest&) { return ok(g.load()); }},
    {"GET", "/v1/migration", [](GuestControl& g, const ApiRequest&) { return ok(g.migration()); }},
    {"DELETE", "/v1/migration", cancel},
    {"PUT", "/v1/pause", pause},
    {"PUT", "/v1/resume", resume},
    {"PUT", "/v1/balloon", balloon},
    {"PUT", "/v1/stop", stop},
    {"PUT", "/v1/resolve", resolve},
}};

std::string program(const ApiRequest& request) {
  std::string path = text(object(request, {"program"}), "program", "");
  if (path.empty() || path.front() != '/') {
    throw BadRequest("program is missing: the absolute path of a godwit");
  }
  return path;
}

/// What is begun by POST and answers later.
constexpr std::array<std::string_view, 4> kSlowTargets{"/v1/migrate", "/v1/migration/resume",
                                                       "/v1/upgrade", "/v1/snapshot"};

void begin(GuestControl& guest, const ApiRequest& request, const ApiReply& reply) {
  const auto done = [reply](const json& report) { reply(ok(report)); };
  try {
    if (request.target == "/v1/migrate") return guest.migrate(move_request(request), done);
    if (request.target == "/v1/migration/resume") {
      const std::uint64_t wait = number(object(request, {"wait_ms"}), "wait_ms", 0, kMaxWait);
      return guest.resume_migration(std::chrono::milliseconds(wait), done);
    }
    if (request.target == "/v1/upgrade") return guest.upgrade(program(request), done);
    guest.snapshot(snapshot_request(request), done);
  } catch (...) {
    answer(reply,
           [error = std::current_exception()]() -> ApiResponse { std::rethrow_exception(error); });
  }
}

void handle(GuestControl& guest, const ApiRequest& request, const ApiReply& reply) {
  if (std::find(kSlowTargets.begin(), kSlowTargets.end(), request.target) != kSlowTargets.end()) {
    if (request.method == "POST") return begin(guest, request, reply);
    return reply(api_error(405, request.target + " takes POST"));
  }
  std::string methods;
  for (const Endpoint& endpoint : kEndpoints) {
    if (endpoint.target != request.target) continue;
    if (endpoint.method == request.method) {
      return answer(reply, [&] { return endpoint.run(guest, request); });
    }
    methods += (methods.empty() ? "" : " or ") + std::string(endpoint.method);
  }
  if (methods.empty()) return reply(api_error(404, "no such endpoint; docs/api.md lists them"));
  reply(api_error(405, fmt::format("{} takes {}", request.target, methods)));
}

}  // namespace

std::vector<std::pair<std::string, std::string>> guest_api_routes() {
  std::vector<std::pair<std::string, std::string>> routes;
  routes.reserve(kSlowTargets.size() + kEndpoints.size());
  for (const std::string_view target : kSlowTargets) routes.emplace_back("POST", target);
  for (const Endpoint& endpoint : kEndpoints) {
    routes.emplace_back(endpoint.method, endpoint.target);
  }
  return routes;
}

ApiHandler guest_api(GuestControl& guest) {
  return
      [&guest](const ApiRequest& request, const ApiReply& reply) { handle(guest, request, reply); };
}

}  // namespace godwit::node
