#include "node/daemon/verdict.h"

#include <gtest/gtest.h>

namespace godwit::node {
namespace {

using nlohmann::json;

json record(const char* action = "move") {
  return {{"action", action},
          {"cause", "imbalance"},
          {"mode", "automatic"},
          {"from", "a"},
          {"to", "b"},
          {"predicted",
           {{"seconds", 0.5},
            {"source_before", 0.9},
            {"source_after", 0.6},
            {"target_before", 0.1},
            {"target_after", 0.4}}},
          {"inputs",
           {{"self", {{"name", "a"}, {"forecast_load", 0.9}, {"guests", 3}}},
            {"peers",
             {{{"name", "b"}, {"forecast_load", 0.1}, {"guests", 1}},
              {{"name", "c"}, {"forecast_load", 0.5}, {"guests", 1}}}}}}};
}

TEST(Verdict, HoldsBothEndsAgainstThePrediction) {
  const json good = verdict(record(), {{"a", {0.58, 2}}, {"b", {0.45, 2}}, {"c", {0.5, 1}}}, true);
  EXPECT_EQ(good["verdict"], "as predicted");
  EXPECT_EQ(good["relieved"], true);
  EXPECT_EQ(good["source_load_before"], 0.9);
  EXPECT_EQ(good["target_load_later"], 0.45);
  EXPECT_NEAR(good["deviation_before"].get<double>(), 0.3266, 1e-3);
  EXPECT_NEAR(good["deviation_later"].get<double>(), 0.0535, 1e-3);
  for (const double there : {0.2, 0.6}) {
    EXPECT_EQ(verdict(record(), {{"a", {0.6, 2}}, {"b", {there, 2}}}, true)["verdict"],
              "not as predicted");
  }
  EXPECT_EQ(verdict(record(), {{"a", {0.95, 2}}, {"b", {0.4, 2}}}, true)["relieved"], false);
}

TEST(Verdict, SaysNothingOfAMoveThatWasNotTheOnlyOne) {
  const char* undecided = "undecided: others came or went meanwhile";
  EXPECT_EQ(verdict(record(), {{"a", {0.6, 2}}, {"b", {0.4, 2}}}, false)["verdict"], undecided);
  EXPECT_EQ(verdict(record(), {{"a", {0.6, 2}}, {"b", {0.4, 3}}}, true)["verdict"], undecided);
  EXPECT_EQ(verdict(record("swap"), {{"a", {0.6, 3}}, {"b", {0.4, 1}}}, true)["verdict"],
            "as predicted");
}

TEST(Verdict, KnowsNoHostsThatSayNothing) {
  const json alone = verdict(record(), {{"a", {0.6, 2}}}, true);
  EXPECT_EQ(alone["verdict"], "as predicted");
  EXPECT_FALSE(alone.contains("target_load_later"));
  EXPECT_FALSE(alone.contains("deviation_later"));
  EXPECT_EQ(verdict(json(), {}, true)["verdict"], "undecided: nothing was predicted");
}

TEST(UnknownOutcome, IsThatOfWhatWasPendingOnly) {
  EXPECT_EQ(unknown_outcome(record())["status"], "unknown");
  json concluded = record();
  concluded["outcome"] = {{"status", "completed"}};
  EXPECT_EQ(unknown_outcome(concluded), (json{{"verdict", "unknown: the node restarted"}}));
  concluded["outcome"]["verdict"] = "as predicted";
  EXPECT_TRUE(unknown_outcome(concluded).is_null());
  concluded["outcome"] = {{"status", "failed"}};
  EXPECT_TRUE(unknown_outcome(concluded).is_null());
  json advice = record();
  advice["mode"] = "advise";
  EXPECT_TRUE(unknown_outcome(advice).is_null());
  advice["cause"] = "by hand";
  EXPECT_EQ(unknown_outcome(advice)["status"], "unknown");
  EXPECT_TRUE(unknown_outcome(record("stay")).is_null());
}

}  // namespace
}  // namespace godwit::node
