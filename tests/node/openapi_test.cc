// docs/openapi.json and openapi-node.json against the servers: the same routes, every field of a
// request known, and reports as they are. (What a guest answers of itself: guest_test.cc; a node:
// test_node.py.)
#include <gtest/gtest.h>

#include <cctype>
#include <fstream>
#include <nlohmann/json.hpp>
#include <set>

#include "migration/dry_run.h"
#include "migration/report.h"
#include "migration/snapshot.h"
#include "node/control_api.h"
#include "node/daemon/node_api.h"
#include "tests/node/described.h"
#include "tests/node/fake_guest.h"

namespace godwit::node {
namespace {

using nlohmann::json;
using Route = std::pair<std::string, std::string>;

json description(const std::string& name = "openapi.json") {
  std::ifstream file(GODWIT_DOCS "/" + name);
  return json::parse(file);
}

std::string upper(std::string text) {
  for (char& c : text) c = static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
  return text;
}

const json& schema_of(const json& all, const json& holder) {
  const std::string name = holder["content"]["application/json"]["schema"]["$ref"];
  return all["components"]["schemas"].at(name.substr(name.rfind('/') + 1));
}

ApiResponse ask(const std::string& method, const std::string& target, const std::string& body) {
  FakeGuest guest;
  ApiResponse answer{0, ""};
  guest_api(guest)({method, target, body},
                   [&](ApiResponse response) { answer = std::move(response); });
  return answer;
}

std::set<Route> described_routes(const json& all) {
  std::set<Route> described;
  for (const auto& [target, operations] : all["paths"].items()) {
    for (const auto& [method, operation] : operations.items()) {
      described.emplace(upper(method), target);
    }
  }
  return described;
}

TEST(OpenApi, ListsExactlyTheRoutesOfTheNode) {
  const auto routes = node_api_routes();
  EXPECT_EQ(described_routes(description("openapi-node.json")),
            std::set<Route>(routes.begin(), routes.end()));
}

TEST(OpenApi, ListsExactlyTheRoutesOfTheServer) {
  const std::set<Route> described = described_routes(description());
  const auto routes = guest_api_routes();
  EXPECT_EQ(described, std::set<Route>(routes.begin(), routes.end()));
  for (const auto& [method, target] : described) {
    const unsigned status = ask(method, target, R"({"no such field": 1})").status;
    EXPECT_TRUE(status == 200 || status == 400 || status == 500)
        << method << ' ' << target << status;
  }
}

TEST(OpenApi, NamesOnlyFieldsThatTheServerTakes) {
  const json all = description();
  unsigned fields = 0;
  for (const auto& [target, operations] : all["paths"].items()) {
    for (const auto& [method, operation] : operations.items()) {
      const std::string verb = upper(method);
      if (!operation.contains("requestBody")) continue;
      EXPECT_NE(ask(verb, target, R"({"no such field": 1})").body.find("unknown field"),
                std::string::npos)
          << target;
      for (const auto& [name, schema] :
           schema_of(all, operation["requestBody"])["properties"].items()) {
        ++fields;
        const ApiResponse answer = ask(verb, target, json{{name, json::array()}}.dump());
        EXPECT_EQ(answer.status, 400u) << target << ' ' << name << " may be an array";
        EXPECT_EQ(answer.body.find("unknown field"), std::string::npos) << target << ' ' << name;
      }
    }
  }
  EXPECT_GE(fields, 9u);
}

TEST(OpenApi, DescribesReportsAndProgressAsTheyAre) {
  const json schemas = description()["components"]["schemas"];
  migration::Report move;
  move.status = "completed";
  move.rounds.emplace_back();
  json report = to_json(move);
  report.update({{"to", "b:7070"}, {"guest_state", "over"}});  // of Move, of Guest
  expect_described(schemas, schemas["MoveReport"], report, "report");
  migration::DryRun dry_run;
  dry_run.status = "would-complete";
  dry_run.curve.add(1, 4096);
  dry_run.remedies.emplace_back();
  json foretold = to_json(dry_run);
  foretold.update({{"to", "b:7070"}, {"guest_state", "running"}});
  expect_described(schemas, schemas["DryRunReport"], foretold, "dry run");
  migration::Progress doubtful;
  doubtful.doubt.since = std::chrono::steady_clock::now();
  json progress = to_json(doubtful);
  progress["to"] = "b:7070";
  expect_described(schemas, schemas["Progress"], progress, "progress");
  migration::SnapshotReport snapshot;
  snapshot.status = "completed";
  snapshot.rounds.emplace_back();
  json written = to_json(snapshot);
  written.update({{"directory", "/srv/s1"}, {"guest_state", "running"}});
  expect_described(schemas, schemas["SnapshotReport"], written, "snapshot");
}

TEST(OpenApi, DefinesWhatItRefersTo) {
  const std::string file = "openapi.json";
  for (const std::string& from : {file, std::string("openapi-node.json")}) {
    const std::string text = description(from).dump();
    for (std::size_t at = text.find("#/components/schemas/"); at != std::string::npos;
         at = text.find("#/components/schemas/", at + 1)) {
      const bool of_guest = at >= file.size() && text.substr(at - file.size(), file.size()) == file;
      const std::size_t start = at + std::string("#/components/schemas/").size();
      const std::string name = text.substr(start, text.find('"', start) - start);
      EXPECT_TRUE(description(of_guest ? file : from)["components"]["schemas"].contains(name))
          << from << ": " << name;
    }
  }
}

}  // namespace
}  // namespace godwit::node
