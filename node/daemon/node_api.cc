#include "node/daemon/node_api.h"

#include <fmt/format.h>

#include <charconv>
#include <string_view>

#include "node/daemon/json_fields.h"
#include "node/daemon/metrics.h"

namespace godwit::node {

using nlohmann::json;

namespace {

constexpr std::string_view kReservations = "/v1/reservations";
constexpr std::string_view kDecisions = "/v1/decisions";
constexpr std::string_view kGuests = "/v1/guests";
constexpr std::size_t kRecordsShown = 200;  // unless ?last=N says how many

ApiResponse ok(const json& value) {
  return {200, value.dump(-1, ' ', false, json::error_handler_t::replace)};
}
ApiResponse done() { return ok({{"ok", true}}); }

json body_of(const ApiRequest& request) {
  if (request.body.empty()) return json::object();
  json body = json::parse(request.body, nullptr, false);
  if (!body.is_object()) throw BadRequest("the body must be a JSON object");
  return body;
}

std::string required(const json& body, const char* key) {
  const auto text = text_in(body, key);
  if (!text || text->empty()) throw BadRequest(fmt::format("{} is missing", key));
  return *text;
}

ApiResponse answer(const std::function<ApiResponse()>& operation) {
  try {
    return operation();
  } catch (const BadRequest& error) {
    return api_error(400, error.what());
  } catch (const Busy& error) {
    return api_error(503, error.what());
  } catch (const Conflict& error) {
    return api_error(409, error.what());
  } catch (const std::out_of_range& error) {
    return api_error(404, error.what());
  } catch (const std::exception& error) {
    return api_error(500, error.what());
  }
}

ApiResponse set_mode(Node& node, const json& body) {
  std::optional<Mode> mode;
  std::optional<balancer::Goal> goal;
  if (!field(body, "mode").is_null()) {
    mode = mode_named(required(body, "mode"));
    if (!mode) throw BadRequest("mode must be \"off\", \"advise\" or \"automatic\"");
  }
  if (!field(body, "goal").is_null()) {
    goal = goal_named(required(body, "goal"));
    if (!goal) throw BadRequest("goal must be \"balance\" or \"consolidate\"");
  }
  if (!mode && !goal) throw BadRequest("mode or goal is missing");
  return ok(node.set_mode(mode, goal));
}

ApiResponse start_move(Node& node, const json& body) {
  json settings = body;
  settings.erase("guest");
  settings.erase("to");
  return ok(node.migrate(required(body, "guest"), required(body, "to"), settings));
}

struct Endpoint {
  std::string_view method;
  std::string_view target;
  ApiResponse (*run)(Node&, const json& body);
};

constexpr Endpoint kEndpoints[] = {
    {"GET", "/v1/view", [](Node& node, const json&) { return ok(node.view()); }},
    {"GET", "/v1/node", [](Node& node, const json&) { return ok(node.status()); }},
    {"GET", kGuests, [](Node& node, const json&) { return ok(node.guests()); }},
    {"POST", kGuests, [](Node& node, const json& body) { return ok(node.start(body)); }},
    {"POST", "/v1/moves", start_move},
    {"POST", kReservations, [](Node& node, const json& body) { return ok(node.reserve(body)); }},
    {"POST", "/v1/exchanges",
     [](Node& node, const json& body) {
       return ok(node.give_back(required(body, "reservation"), required(body, "to")));
     }},
    {"POST", "/v1/undone", [](Node& node, const json& body) { return ok(node.undone(body)); }},
    {"PUT", "/v1/drain", [](Node& node, const json&) { return ok(node.drain()); }},
    {"PUT", "/v1/undrain", [](Node& node, const json&) { return ok(node.undrain()); }},
    {"PUT", "/v1/mode", set_mode},
    {"PUT", "/v1/wake", [](Node& node, const json&) { return ok(node.wake()); }},
    {"GET", "/metrics",
     [](Node& node, const json&) {
       return ApiResponse{200, prometheus_text(node.status()), kMetricsContentType};
     }},
};

/// "/v1/decisions", or "/v1/decisions/GUEST"; "?last=N".
ApiResponse decisions(const Node& node, std::string_view rest) {
  std::size_t count = kRecordsShown;
  if (const auto query = rest.find('?'); query != std::string_view::npos) {
    constexpr std::string_view kLast = "?last=";
    const std::string_view text = rest.substr(query);
    const char* const end = text.data() + text.size();
    if (!text.starts_with(kLast) ||
        std::from_chars(text.data() + kLast.size(), end, count).ptr != end ||
        text.size() == kLast.size()) {
      throw BadRequest("the query must be last=N");
    }
    rest = rest.substr(0, query);
  }
  if (!rest.empty()) rest.remove_prefix(1);
  return ok(node.records().newest(count, std::string(rest)));
}

ApiResponse handle(Node& node, const ApiRequest& request) {
  const std::string_view target = request.target;
  const auto below = [&](std::string_view prefix) {
    return target.size() > prefix.size() && target.substr(0, prefix.size()) == prefix &&
           target[prefix.size()] == '/';
  };
  if (request.method == "GET" &&
      (target.substr(0, target.find('?')) == kDecisions || below(kDecisions))) {
    return decisions(node, target.substr(kDecisions.size()));
  }
  if (below(kGuests)) {
    const std::string name(target.substr(kGuests.size() + 1));
    if (request.method == "GET") return ok(node.guest(name));
    if (request.method != "DELETE") return api_error(405, "a guest takes GET or DELETE");
    node.stop(name, number_in(body_of(request), "force").value_or(0) != 0);
    return done();
  }
  if (request.method == "DELETE" && below(kReservations)) {
    node.release(std::string(target.substr(kReservations.size() + 1)));
    return done();
  }
  std::string methods;
  for (const Endpoint& endpoint : kEndpoints) {
    if (endpoint.target != target) continue;
    if (endpoint.method == request.method) return endpoint.run(node, body_of(request));
    methods += (methods.empty() ? "" : " or ") + std::string(endpoint.method);
  }
  if (methods.empty()) return api_error(404, "no such endpoint; docs/api.md lists them");
  return api_error(405, fmt::format("{} takes {}", request.target, methods));
}

}  // namespace

std::vector<std::pair<std::string, std::string>> node_api_routes() {
  std::vector<std::pair<std::string, std::string>> routes{
      {"GET", std::string(kDecisions)},
      {"GET", std::string(kDecisions) + "/{guest}"},
      {"GET", std::string(kGuests) + "/{guest}"},
      {"DELETE", std::string(kGuests) + "/{guest}"},
      {"DELETE", std::string(kReservations) + "/{id}"}};
  for (const Endpoint& endpoint : kEndpoints) {
    routes.emplace_back(endpoint.method, endpoint.target);
  }
  return routes;
}

ApiHandler node_api(Node& node, Workers& workers) {
  return [&node, &workers](const ApiRequest& request, const ApiReply& reply) {
    const bool taken = workers.run(
        [&node, request, reply] { reply(answer([&] { return handle(node, request); })); });
    if (!taken) reply(api_error(503, "too many requests at once: try again later"));
  };
}

}  // namespace godwit::node
