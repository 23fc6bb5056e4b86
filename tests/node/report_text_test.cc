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
  const auto report = [](const char* tls) { return json{{"transport", "tcp"}, {"tls", tls}}; };
  const auto text = [&](const char* tls) { return report_text(report(tls)); };
  EXPECT_NE(text("kernel").find("  encrypted  by TLS 1.3, in the kernel\n"), std::string::npos);
  EXPECT_NE(text("user").find("  encrypted  by TLS 1.3, in the guest's process\n"),
            std::string::npos);
  EXPECT_EQ(text("none").find("TLS"), std::string::npos);
  EXPECT_NE(dry_run_text(report("user")).find("  encrypted  by TLS 1.3"), std::string::npos);
}

TEST(ReportText, SaysWhatCompressingHasSaved) {
  json report{{"bytes", {{"ram", 100u << 20}, {"wire", 30u << 20}}}};
  EXPECT_NE(report_text(report).find(", compressed to 30 %\n"), std::string::npos);
  report["bytes"]["wire"] = 100u << 20;
  EXPECT_EQ(report_text(report).find("compressed"), std::string::npos);
}

TEST(DryRunText, HasWhatWasMeasuredAndWhatItMeans) {
  json report{
      {"status", "would-complete"},
      {"transport", "rdma"},
      {"ram", {{"data", 100 << 20}, {"populated", 128 << 20}}},
      {"link", {{"mbps", 8000}, {"bytes", 64 << 20}, {"ms", 67}}},
      {"dirty",
       {{"log_ms", 515}, {"curve", {{{"ms", 1}, {"bytes", 4096}}, {{"ms", 2}, {"bytes", 8192}}}}}},
      {"switch_over", {{"fixed_ms", 4}}},
      {"downtime_limit_ms", 50},
      {"predicted", {{"total_ms", 120}, {"downtime_ms", 12}, {"rounds", 2}}}};
  const std::string text = dry_run_text(report);
  for (const char* part :
       {"  transport  rdma\n", "  memory     100M to send, of 128M that are in use\n",
        "  link       8.00 Gbit/s, by 64M that went there in 67 ms\n",
        "  dirties    4K in 1.0 ms, 8K in 2.0 ms\n",
        "  predicted  120 ms in 2 rounds, downtime 12 ms  (the limit is 50 ms)\n"}) {
    EXPECT_NE(text.find(part), std::string::npos) << part << text;
  }
  report["link"]["wire"] = 16 << 20;
  EXPECT_NE(dry_run_text(report).find(" in 67 ms, compressed to 25 %\n"), std::string::npos);
  report["predicted"]["downtime_ms"] = 60;
  EXPECT_NE(dry_run_text(report).find("(more than the limit of 50 ms)"), std::string::npos);
  report["status"] = "would-not-converge";
  report["remedies"] = {
      {{"option", "--mode hybrid"}, {"predicted", {{"total_ms", 900}, {"postcopy", true}}}}};
  EXPECT_NE(dry_run_text(report).find("with --mode hybrid: 900 ms, downtime 0 us, its memory "
                                      "follows\n"),
            std::string::npos)
      << dry_run_text(report);
  for (const json& odd :
       {json(), json::array(), json{{"remedies", 3}, {"dirty", {{"curve", 1}}}}}) {
    EXPECT_EQ(dry_run_text(odd).back(), '\n');
  }
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
