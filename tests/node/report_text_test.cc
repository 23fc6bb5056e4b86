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

TEST(ReportText, HasPredictionAndOutcomeSideBySide) {
  const std::string text = report_text({{"status", "completed"},
                                        {"total_ms", 900},
                                        {"downtime_ms", 23},
                                        {"predicted", {{"total_ms", 870}, {"downtime_ms", 20}}}});
  EXPECT_NE(text.find("  predicted  870 ms, downtime 20 ms  (after the first round)\n"),
            std::string::npos)
      << text;
}

TEST(ReportText, SaysWhoEncrypted) {
  const auto text = [](const char* tls) { return report_text({{"tls", tls}}); };
  EXPECT_NE(text("kernel").find("  encrypted  by TLS 1.3, in the kernel\n"), std::string::npos);
  EXPECT_NE(text("user").find("  encrypted  by TLS 1.3, in the guest's process\n"),
            std::string::npos);
  EXPECT_EQ(text("none").find("TLS"), std::string::npos);
}

TEST(ProgressText, NamesRoundWhatIsLeftAndRate) {
  EXPECT_EQ(progress_text({{"phase", "rounds"},
                           {"round", 3},
                           {"remaining_bytes", 12u << 20},
                           {"throughput_mbps", 850}}),
            "round 3, 12M left, 850 Mbit/s");
  EXPECT_EQ(progress_text({{"phase", "rounds"},
                           {"round", 2},
                           {"predicted_downtime_ms", 120},
                           {"downtime_limit_ms", 50}}),
            "round 2, 0B left, 0 Mbit/s, would stop for 120 ms, the limit is 50 ms");
  EXPECT_EQ(progress_text({{"phase", "connecting"}}), "connecting");
  EXPECT_EQ(progress_text(json()), "-");
}

}  // namespace
}  // namespace godwit::node
