#include "node/daemon/bounded_file.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <iterator>

namespace godwit::node {
namespace {

class BoundedFileTest : public testing::Test {
 protected:
  ~BoundedFileTest() override {
    for (const char* end : {"", ".1"}) std::filesystem::remove(path_ + end);
  }
  static std::string contents(const std::string& path) {
    std::ifstream file(path);
    return {std::istreambuf_iterator<char>(file), {}};
  }

  const std::string path_ = testing::TempDir() + "godwit_bounded_" + std::to_string(::getpid());
};

TEST_F(BoundedFileTest, KeepsTheNewestOfWhatIsAppendedAllTheTime) {
  std::ofstream writer(path_, std::ios::app);
  for (int i = 0; i < 1000; ++i) {
    writer << "line " << i << '\n' << std::flush;
    bound_file(path_, 100);
    EXPECT_LE(std::filesystem::file_size(path_), 110u);
  }
  const std::string kept = contents(path_ + ".1") + contents(path_);
  EXPECT_LE(kept.size(), 220u);
  EXPECT_NE(kept.find("line 990\nline 991\n"), std::string::npos) << kept;
  EXPECT_EQ(kept.substr(kept.size() - 9), "line 999\n");
}

TEST_F(BoundedFileTest, LeavesWhatIsNoFileAndWhatIsSmall) {
  bound_file(path_, 1);
  EXPECT_FALSE(std::filesystem::exists(path_ + ".1"));
  std::ofstream(path_) << "small";
  bound_file(path_, 5);
  bound_file("/dev/null", 0);
  EXPECT_EQ(contents(path_), "small");
  EXPECT_FALSE(std::filesystem::exists(path_ + ".1"));
}

}  // namespace
}  // namespace godwit::node
