#include "node/daemon/records.h"

#include <gtest/gtest.h>
#include <stdlib.h>

#include <filesystem>
#include <fstream>
#include <stdexcept>

namespace godwit::node {
namespace {

using nlohmann::json;

class RecordsTest : public ::testing::Test {
 protected:
  RecordsTest() {
    std::string folder = ::testing::TempDir() + "records-XXXXXX";
    folder_ = ::mkdtemp(folder.data());
    file_ = folder_ + "/decisions.jsonl";
  }
  ~RecordsTest() override { std::filesystem::remove_all(folder_); }

  static json move(const char* guest) { return {{"action", "move"}, {"guest", guest}}; }

  std::string folder_, file_;
};

TEST_F(RecordsTest, AreKeptWithTheirOutcomeAcrossARestart) {
  {
    Records records(file_);
    const auto id = records.add(move("g1"));
    records.add(move("g2"));
    records.conclude(id, {{"status", "completed"}});
    records.conclude(id, {{"relieved", true}});
  }
  Records records(file_);
  const json all = records.newest(10);
  ASSERT_EQ(all.size(), 2u);
  EXPECT_EQ(all[0]["guest"], "g1");
  EXPECT_EQ(all[0]["outcome"], (json{{"status", "completed"}, {"relieved", true}}));
  EXPECT_FALSE(all[1].contains("outcome"));
  EXPECT_GT(all[0]["time"].get<double>(), 1e9);
  EXPECT_EQ(records.add(move("g3")), all[1]["id"].get<std::uint64_t>() + 1);
}

TEST_F(RecordsTest, TornAndForeignLinesAreSkipped) {
  {
    Records records(file_);
    records.add(move("g1"));
  }
  std::ofstream(file_, std::ios::app)
      << "[1,2]\n{\"id\": \"x\"}\n{\"id\": 9}\n{\"id\": 1, \"outcome\": 5}\n{\"id\": 7, \"act";
  Records records(file_);
  ASSERT_EQ(records.newest(10).size(), 1u);
  records.add(move("g2"));
  EXPECT_EQ(Records(file_).newest(10).size(), 2u) << "the torn line swallowed the next one";
}

TEST_F(RecordsTest, CanBeAskedForOneGuestAndForTheNewest) {
  Records records(file_);
  EXPECT_TRUE(records.find(1).is_null());
  for (int i = 0; i < 5; ++i) records.add(move(i % 2 == 0 ? "even" : "odd"));
  EXPECT_EQ(records.newest(2).size(), 2u);
  EXPECT_EQ(records.newest(2)[1]["id"], 5);
  EXPECT_EQ(records.newest(10, "odd").size(), 2u);
  EXPECT_EQ(records.find(2)["guest"], "odd");
  EXPECT_EQ(records.newest(10, "none").size(), 0u);
}

TEST_F(RecordsTest, AreBoundedInMemoryAndOnDisk) {
  Records records(file_);
  json large = move("g");
  large["text"] = std::string(20'000, 'x');
  for (std::size_t i = 0; i < Records::kKept + 10; ++i) records.add(large);
  EXPECT_EQ(records.newest(10 * Records::kKept).size(), Records::kKept);
  EXPECT_LT(std::filesystem::file_size(file_), Records::kFileBytes + 100'000);
  EXPECT_LT(std::filesystem::file_size(file_ + ".1"), Records::kFileBytes + 100'000);
}

TEST_F(RecordsTest, AFileThatCannotBeWrittenIsSaidAtOnce) {
  EXPECT_THROW(Records(folder_ + "/no/such/folder"), std::runtime_error);
}

}  // namespace
}  // namespace godwit::node
