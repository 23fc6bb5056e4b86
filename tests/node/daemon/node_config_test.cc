#include "node/daemon/node_config.h"

#include <gtest/gtest.h>

#include <filesystem>

#include <stdexcept>

namespace godwit::node {
namespace {

std::string complaint(const std::string& json) {
  try {
    (void)parse_node_config(json);
  } catch (const std::runtime_error& error) {
    return error.what();
  }
  return "";
}

constexpr const char* kRuntime = R"("runtime": "/tmp/run")";

std::string with(const std::string& fields) {
  return std::string("{") + kRuntime + ", " + fields + "}";
}

TEST(NodeConfig, AnEmptyObjectTakesEveryDefault) {
  const NodeConfig config = parse_node_config(std::string("{") + kRuntime + "}");
  EXPECT_FALSE(config.name.empty());
  EXPECT_EQ(config.mode, Mode::kAutomatic);
  EXPECT_EQ(config.interval, std::chrono::seconds(1));
  EXPECT_EQ(config.socket(), "/tmp/run/node.api");
  EXPECT_EQ(config.policy.incoming_limit, 1);
  EXPECT_EQ(config.policy.outgoing_limit, 1);
  EXPECT_TRUE(config.peers.empty());
}

TEST(NodeConfig, QuantitiesHaveUnits) {
  const NodeConfig config = parse_node_config(
      with(R"("memory": "16G", "link": "10Gbit", "interval": "250ms", "reservation": "5s")"));
  EXPECT_EQ(config.memory, 16384);
  EXPECT_EQ(config.link, 1250);
  EXPECT_EQ(config.interval, std::chrono::milliseconds(250));
  EXPECT_EQ(config.reservation, std::chrono::seconds(5));
  EXPECT_NE(complaint(with(R"("memory": "16")")).find("\"memory\""), std::string::npos);
}

TEST(NodeConfig, TheHoldTimeDoesNotDependOnTheInterval) {
  for (const int ms : {500, 1000, 2000}) {
    const auto policy = live_policy(balancer::Goal::kBalance, std::chrono::milliseconds(ms));
    EXPECT_EQ(policy.hot_n * ms, 30'000);
    EXPECT_LE(policy.hot_k, policy.hot_n);
  }
}

TEST(NodeConfig, ASampleCountsForTheTimeItStandsFor) {
  const auto traces = balancer::default_policy(balancer::Goal::kBalance);
  const auto second = live_policy(balancer::Goal::kBalance, std::chrono::seconds(1));
  EXPECT_DOUBLE_EQ(second.sample_share, traces.sample_share / 300);
  EXPECT_DOUBLE_EQ(second.spread_weight, traces.spread_weight / 300);
  const auto minutes = live_policy(balancer::Goal::kBalance, std::chrono::minutes(10));
  EXPECT_EQ(minutes.sample_share, traces.sample_share);
}

TEST(NodeConfig, APolicyKeyReplacesTheLiveDefaultOnly) {
  const NodeConfig config = parse_node_config(with(R"("policy": {"cooldown_seconds": 7})"));
  EXPECT_EQ(config.policy.cooldown_seconds, 7);
  EXPECT_EQ(config.policy.hot_n, live_policy(balancer::Goal::kBalance, config.interval).hot_n);
}

TEST(NodeConfig, BadValuesNameTheirKey) {
  EXPECT_EQ(complaint("{\n \"name\": \"a\",\n}").rfind("no valid JSON: line 3, column 1: ", 0), 0u);
  EXPECT_EQ(complaint("[]").substr(0, 3), "\".\"");
  for (const auto& [fields, key] : std::initializer_list<std::pair<const char*, const char*>>{
           {R"("nmae": "a")", "nmae"},
           {R"("name": "a b")", "name"},
           {R"("name": 5)", "name"},
           {R"("listen": "here")", "listen"},
           {R"("listen": "192.0.2.1:7400")", "listen"},
           {R"("peers": {})", "peers"},
           {R"("peers": [{"name": "b"}])", "peers[]"},
           {R"("peers": [{"name": "b", "address": "h:1"}, {"name": "b", "address": "h:2"}])",
            "peers[]"},
           {R"("memory": "")", "memory"},
           {R"("memory": "0")", "memory"},
           {R"("link": "")", "link"},
           {R"("reservation": "")", "reservation"},
           {R"("peers": [{"name": "b", "address": "h:1", "port": 1}])", "peers[].port"},
           {R"("tls": {"ca": "x"})", "tls"},
           {R"("transport": "udp")", "transport"},
           {R"("cpus": 1e99)", "cpus"},
           {R"("cpus": "4")", "cpus"},
           {R"("link": "0")", "link"},
           {R"("mode": "on")", "mode"},
           {R"("goal": "win")", "goal"},
           {R"("interval": "1ms")", "interval"},
           {R"("policy": {"hott": 1})", "policy"},
           {R"("policy": 1)", "policy"},
           {R"("power_watts": [1])", "power_watts"},
           {R"("capabilities": [1])", "capabilities"},
           {R"("compress": 1)", "compress"},
           {R"("rdma_pin": "yes")", "rdma_pin"},
           {R"("insecure": 1)", "insecure"}}) {
    const std::string why = complaint(with(fields));
    EXPECT_EQ(why.rfind(std::string("\"") + key + "\"", 0), 0u) << fields << ": " << why;
    EXPECT_EQ(why.find('\n'), std::string::npos);
  }
}

TEST(NodeConfig, APeerIsAnotherNodeWithAnAddressOfItsOwn) {
  NodeConfig config = parse_node_config(with(R"("name": "a")"));
  EXPECT_EQ(peer_complaint(config, {"b", "h:1"}), "");
  config.peers.push_back({"b", "h:1"});
  EXPECT_EQ(peer_complaint(config, {"b", "h:2"}), "b is there twice");
  EXPECT_EQ(peer_complaint(config, {"a", "h:2"}), "a is this node itself");
  EXPECT_EQ(peer_complaint(config, {"c", "h:0"}), "the address of c: port 0 is nobody's");
  EXPECT_NE(peer_complaint(config, {"", "h:2"}), "");
  EXPECT_NE(peer_complaint(config, {"c/d", "h:2"}), "");
}

TEST(NodeConfig, AFileThatIsNoneIsOneLine) {
  const std::string folder = testing::TempDir();
  for (const auto& [path, why] :
       {std::pair{folder, ": is a directory, not a file"},
        {folder + "godwit_no_such.json", ": No such file or directory"}}) {
    try {
      (void)read_node_config(path);
      ADD_FAILURE() << path;
    } catch (const std::runtime_error& error) {
      EXPECT_EQ(error.what(), path + why);
    }
  }
}

TEST(NodeConfig, WithoutCertificatesItListensOnlyIfOneInsists) {
  EXPECT_NE(complaint(with(R"("listen": "127.0.0.1:7400")")), "");
  EXPECT_EQ(complaint(with(R"("listen": "192.0.2.1:7400", "insecure": true)")), "");
  EXPECT_EQ(
      complaint(with(
          R"("listen": "192.0.2.1:7400", "tls": {"ca": "a", "certificate": "b", "key": "c"})")),
      "");
}

TEST(NodeConfig, GuestsFindItsCertificatesWhereverTheyRun) {
  const NodeConfig config = parse_node_config(
      with(R"("transport": "rdma", "tls": {"ca": "/etc/ca", "certificate": "b", "key": "c"})"));
  const std::string here = std::filesystem::current_path().string() + "/";
  EXPECT_EQ(config.tls->ca, "/etc/ca");
  EXPECT_EQ(config.tls->certificate, here + "b");
  EXPECT_EQ(config.tls->key, here + "c");
  EXPECT_EQ(config.transport, "rdma");
}

}  // namespace
}  // namespace godwit::node
