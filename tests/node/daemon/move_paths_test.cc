#include "node/daemon/move_paths.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

namespace godwit::node {
namespace {

using nlohmann::json;

class MovePathsTest : public testing::Test {
 protected:
  ~MovePathsTest() override { std::filesystem::remove(file_); }

  /// Of a move that sent `mb` within `copying_ms` of `total_ms`.
  static json report(double mb, double copying_ms, double total_ms) {
    return {{"total_ms", total_ms}, {"rounds", {{{"bytes", mb * 0x1p20}, {"ms", copying_ms}}}}};
  }

  const std::string file_ =
      testing::TempDir() + "godwit_paths_" + std::to_string(::getpid()) + ".json";
};

TEST_F(MovePathsTest, TellsSetUpFromCopying) {
  MovePaths paths(file_);
  EXPECT_EQ(paths.to("b").rate, 0);
  EXPECT_EQ(paths.to("b").setup, 0);
  paths.learn("b", report(100, 500, 1700));
  EXPECT_NEAR(paths.to("b").rate, 200, 1e-9);
  EXPECT_NEAR(paths.to("b").setup, 1.2, 1e-9);
  EXPECT_EQ(paths.to("c").rate, 0);
}

TEST_F(MovePathsTest, ComesToWhatMovesTakeAndKeepsItOverARestart) {
  {
    MovePaths paths(file_);
    paths.learn("b", report(100, 5000, 5000));
    for (int i = 0; i < 10; ++i) paths.learn("b", report(100, 100, 300));
  }
  const MovePaths again(file_);
  EXPECT_NEAR(again.to("b").rate, 1000, 10);
  EXPECT_NEAR(again.to("b").setup, 0.2, 0.01);
}

TEST_F(MovePathsTest, LearnsNoRateFromATinyMoveAndNothingFromNonsense) {
  MovePaths paths(file_);
  paths.learn("b", report(0.5, 100, 300));
  EXPECT_EQ(paths.to("b").rate, 0);
  EXPECT_NEAR(paths.to("b").setup, 0.2, 1e-9);
  for (const json& bad : {json(), json("x"), json{{"total_ms", 5}}, report(1e300, 1e-300, -1),
                          json{{"total_ms", "x"}, {"rounds", 7}}}) {
    paths.learn("c", bad);
    EXPECT_GE(paths.to("c").setup, 0);
    EXPECT_LE(paths.to("c").rate, 1e6);
  }
  std::ofstream(file_) << R"({"b": {"rate": -5, "setup": "x"}, "c": 7})";
  EXPECT_EQ(MovePaths(file_).to("b").rate, 0);
}

}  // namespace
}  // namespace godwit::node
