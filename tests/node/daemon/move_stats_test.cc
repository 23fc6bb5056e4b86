#include "node/daemon/move_stats.h"

#include <gtest/gtest.h>

namespace godwit::node {
namespace {

using nlohmann::json;

TEST(Histogram, CountsEveryValueInAllBucketsThatHoldIt) {
  Histogram histogram({1, 2});
  for (const double value : {0.5, 1.0, 1.5, 9.0}) histogram.add(value);
  EXPECT_EQ(histogram.to_json(),
            json::parse(R"({"le": [1.0, 2.0], "counts": [2, 3, 4], "sum": 12.0})"));
}

TEST(MoveStats, TakesReportsAsTheyAre) {
  MoveStats stats;
  stats.add(json::parse(
      R"({"total_ms": 300, "downtime_ms": 12, "rounds": [{"bytes": 1000}, {"bytes": 24}]})"));
  stats.add(json::parse(R"({"total_ms": "x", "rounds": 7})"));
  const json all = stats.to_json();
  EXPECT_EQ(all["seconds"]["counts"].back(), 2);
  EXPECT_EQ(all["seconds"]["sum"], 0.3);
  EXPECT_EQ(all["downtime_seconds"]["sum"], 0.012);
  EXPECT_EQ(all["sent_bytes"], 1024);
}

}  // namespace
}  // namespace godwit::node
