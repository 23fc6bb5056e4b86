#include "node/report_text.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

namespace godwit::node {
namespace {

using nlohmann::json;

TEST(ReportText, SurvivesAReportOfAnotherVersion) {
  for (const json& report :
       {json(), json::object(), json::array(), json(1), json{{"status", 1}, {"rounds", "three"}},
        json{{"total_ms", -1e308}, {"pages", 5}, {"bytes", {{"ram", 1e308}}}}}) {
    EXPECT_EQ(report_text(report).back(), '\n');
    EXPECT_FALSE(progress_text(report).empty());
    EXPECT_LE(progress_bar(report, 80).size(), 80u);
  }
}

TEST(ProgressText, NamesRoundWhatIsLeftAndRate) {
  EXPECT_EQ(progress_text({{"phase", "rounds"},
                           {"round", 3},
                           {"remaining_bytes", 12u << 20},
                           {"throughput_mbps", 850}}),
            "round 3, 12M left, 850 Mbit/s");
  EXPECT_EQ(progress_text({{"phase", "connecting"}}), "connecting");
  EXPECT_EQ(progress_text(json()), "-");
}

}  // namespace
}  // namespace godwit::node
