#include "node/control_api.h"

#include <gtest/gtest.h>

#include "tests/node/fake_guest.h"

namespace godwit::node {
namespace {

class ControlApi : public testing::Test {
 protected:
  ApiResponse ask(const char* method, const char* target, const std::string& body = "") {
    ApiResponse answer{0, ""};
    api_({method, target, body}, [&](ApiResponse response) {
      EXPECT_EQ(answer.status, 0u) << "answered twice";
      answer = std::move(response);
    });
    return answer;
  }
  unsigned status(const char* method, const char* target, const std::string& body = "") {
    return ask(method, target, body).status;
  }

  FakeGuest guest_;
  ApiHandler api_ = guest_api(guest_);
};

TEST_F(ControlApi, ReachesEveryOperation) {
  EXPECT_EQ(status("GET", "/v1/status"), 200u);
  EXPECT_EQ(status("GET", "/v1/load"), 200u);
  EXPECT_EQ(status("PUT", "/v1/pause"), 200u);
  EXPECT_EQ(status("PUT", "/v1/resume", "{}"), 200u);
  EXPECT_EQ(status("PUT", "/v1/stop"), 200u);
  EXPECT_EQ(status("PUT", "/v1/stop", R"({"force":true})"), 200u);
  EXPECT_EQ(status("PUT", "/v1/resolve", R"({"here":false})"), 200u);
  EXPECT_EQ(status("GET", "/v1/migration"), 200u);
  EXPECT_EQ(guest_.calls, (std::vector<std::string>{"status", "load", "pause", "resume", "stop",
                                                    "stop force", "resolve there"}));
}

TEST_F(ControlApi, AnswersAMoveWhenItEnds) {
  ApiResponse answer{0, ""};
  api_(
      {"POST", "/v1/migrate",
       R"({"to":"b:7000","transport":"tcp","downtime_limit_ms":30,"max_bandwidth":1000,"timeout_ms":0})"},
      [&](ApiResponse response) { answer = std::move(response); });
  EXPECT_EQ(answer.status, 0u);
  EXPECT_EQ(guest_.last_request.to, "b:7000");
  EXPECT_EQ(guest_.last_request.transport, "tcp");
  EXPECT_EQ(guest_.last_request.downtime_limit_ms, 30u);
  EXPECT_EQ(guest_.last_request.max_bandwidth, 1000u);
  EXPECT_EQ(guest_.last_request.timeout_ms, 0u);
  guest_.last_done({{"status", "completed"}});
  EXPECT_EQ(answer.status, 200u);
  EXPECT_EQ(answer.body, R"({"status":"completed"})");
}

TEST_F(ControlApi, TakesCertificatesForAMove) {
  const auto asks = [&](const std::string& tls) {
    guest_.last_request = {};
    api_({"POST", "/v1/migrate", R"({"to":"b:7000","tls":)" + tls + "}"},
         [](const ApiResponse&) {});
    return guest_.last_request;
  };
  const MoveRequest whole =
      asks(R"({"ca":"/ca.crt","certificate":"/a.crt","key":"/a.key","name":"b"})");
  EXPECT_EQ(whole.tls->ca, "/ca.crt");
  EXPECT_EQ(whole.tls->certificate, "/a.crt");
  EXPECT_EQ(whole.tls->key, "/a.key");
  EXPECT_EQ(whole.tls_name, "b");
  const MoveRequest named = asks(R"({"name":"b"})");
  EXPECT_EQ(named.tls_name, "b");
  EXPECT_FALSE(named.tls);
  for (const char* tls :
       {"null", "[]", R"({"ca":"/ca.crt"})", R"({"ca":"ca.crt","certificate":"/a","key":"/b"})",
        R"({"ca":"/c","certificate":"/a","key":"/b\u0000"})", R"({"name":1})",
        R"({"cert":"/a"})"}) {
    EXPECT_EQ(status("POST", "/v1/migrate", R"({"to":"b:7000","tls":)" + std::string(tls) + "}"),
              400u)
        << tls;
  }
}

TEST_F(ControlApi, AnswersASnapshotWhenItEnds) {
  ApiResponse answer{0, ""};
  api_({"POST", "/v1/snapshot", R"({"directory":"/srv/s1","stop":true})"},
       [&](ApiResponse response) { answer = std::move(response); });
  EXPECT_EQ(answer.status, 0u);
  EXPECT_EQ(guest_.calls.back(), "snapshot and stop /srv/s1");
  guest_.last_done({{"status", "completed"}});
  EXPECT_EQ(answer.status, 200u);
  for (const char* body : {"", "{}", R"({"directory":"s1"})", R"({"directory":1})",
                           R"({"directory":"/a\u0000b"})", R"({"directory":"/a","stop":1})"}) {
    EXPECT_EQ(status("POST", "/v1/snapshot", body), 400u) << body;
  }
  EXPECT_EQ(status("GET", "/v1/snapshot"), 405u);
}

TEST_F(ControlApi, UpgradesToAnAbsolutePathOnly) {
  EXPECT_EQ(status("POST", "/v1/upgrade", R"({"program":"/usr/bin/godwit"})"), 200u);
  for (const auto* body :
       {"", "{}", R"({"program":"godwit"})", R"({"program":7})", R"({"to":"b:1"})"}) {
    EXPECT_EQ(status("POST", "/v1/upgrade", body), 400u) << body;
  }
  EXPECT_EQ(status("PUT", "/v1/upgrade"), 405u);
  EXPECT_EQ(guest_.calls, (std::vector<std::string>{"upgrade /usr/bin/godwit"}));
}

TEST_F(ControlApi, AsksForMemory) {
  EXPECT_EQ(status("PUT", "/v1/balloon", R"({"bytes":4096})"), 200u);
  EXPECT_EQ(guest_.calls.back(), "balloon 4096");
  for (const char* body : {"", "{}", R"({"bytes":-1})", R"({"bytes":"1G"})", R"({"size":1})"}) {
    EXPECT_EQ(status("PUT", "/v1/balloon", body), 400u) << body;
  }
}

TEST_F(ControlApi, RefusesBodiesThatMakeNoSense) {
  for (const auto* body :
       {"", "{", "[]", "null", R"({"to":1})", R"({"to":"b:1","transport":"pigeon"})",
        R"({"to":"b:1","mode":"sideways"})", R"({"to":"b:1","mode":1})",
        R"({"to":"b:1","downtime_limit_ms":-1})", R"({"to":"b:1","timeout_ms":1e300})",
        R"({"to":"b:1","timeout_ms":1.5})", R"({"to":"b:1","colour":"red"})"}) {
    EXPECT_EQ(status("POST", "/v1/migrate", body), 400u) << body;
  }
  EXPECT_EQ(status("PUT", "/v1/stop", R"({"force":"yes"})"), 400u);
  EXPECT_EQ(status("PUT", "/v1/resolve"), 400u);
  EXPECT_TRUE(guest_.calls.empty());
}

TEST_F(ControlApi, TellsConflictsFromFailures) {
  guest_.moving = true;
  const ApiResponse conflict = ask("PUT", "/v1/pause");
  EXPECT_EQ(conflict.status, 409u);
  EXPECT_EQ(conflict.body, R"({"error":"web1 is being moved"})");
  EXPECT_EQ(status("DELETE", "/v1/migration"), 500u);
}

TEST_F(ControlApi, NamesUnknownEndpointsAndWrongMethods) {
  EXPECT_EQ(status("GET", "/v2/status"), 404u);
  EXPECT_EQ(status("GET", ""), 404u);
  EXPECT_EQ(status("GET", "/v1/pause"), 405u);
  EXPECT_EQ(status("GET", "/v1/migrate"), 405u);
  EXPECT_EQ(ask("PUT", "/v1/migration").body, R"({"error":"/v1/migration takes GET or DELETE"})");
}

TEST_F(ControlApi, SurvivesBytesThatAreNoText) {
  EXPECT_EQ(status("POST", "/v1/migrate", "{\"\xff\":1}"), 400u);
  EXPECT_EQ(api_error(400, "\xff\xfe").status, 400u);
}

}  // namespace
}  // namespace godwit::node
