#include "balancer/simulator/trace.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <stdexcept>

namespace godwit::balancer::simulator {
namespace {

std::string lines(std::size_t count, const std::string& line) {
  std::string text;
  for (std::size_t i = 0; i < count; ++i) text += line + "\n";
  return text;
}

class TemporaryDirectory {
 public:
  TemporaryDirectory() {
    std::string pattern = (std::filesystem::temp_directory_path() / "godwit-trace-XXXXXX").string();
    path_ = ::mkdtemp(pattern.data());
  }
  ~TemporaryDirectory() { std::filesystem::remove_all(path_); }
  const std::filesystem::path& path() const { return path_; }
  void write(const std::string& name, const std::string& text) const {
    std::ofstream(path_ / name, std::ios::binary) << text;
  }

 private:
  std::filesystem::path path_;
};

TEST(Trace, TakesOneValueALine) {
  const Trace trace = parse_trace("a", "0\n100\r\n7", 3);
  EXPECT_EQ(trace.percent, (std::vector<std::uint8_t>{0, 100, 7}));
}

TEST(Trace, RefusesWhatIsNotAPercentage) {
  for (const char* bad :
       {"101", "-1", "x", "", "1.5", "99999999999999999999", "0x1", "1 2", "+5"}) {
    EXPECT_THROW(parse_trace("a", std::string("1\n") + bad + "\n", 2), std::runtime_error) << bad;
  }
}

TEST(Trace, RefusesTooFewAndTooManySamples) {
  EXPECT_THROW(parse_trace("a", "1\n2\n", 3), std::runtime_error);
  EXPECT_THROW(parse_trace("a", "1\n2\n3\n4\n", 3), std::runtime_error);
  EXPECT_NO_THROW(parse_trace("a", "1\n2\n3\n\n", 3));
}

TEST(Trace, NamesTheFileAndLineWithoutControlBytes) {
  try {
    parse_trace("evil\x1b[2J", "1\nboom\n", 2);
    FAIL();
  } catch (const std::runtime_error& error) {
    EXPECT_EQ(std::string(error.what()),
              "trace 'evil?[2J', line 2: expected an integer from 0 to 100");
  }
}

TEST(Traces, AreSortedByNameAndMayHaveSpaces) {
  const TemporaryDirectory directory;
  directory.write("b", lines(2, "2"));
  directory.write("a host_ slice", lines(2, "1"));
  directory.write(".hidden", "not a trace");
  const auto traces = read_traces(directory.path(), 2);
  ASSERT_EQ(traces.size(), 2u);
  EXPECT_EQ(traces[0].name, "a host_ slice");
  EXPECT_EQ(traces[1].name, "b");
}

TEST(Traces, RefuseAnOversizedFileAnEmptyAndAMissingDirectory) {
  const TemporaryDirectory directory;
  EXPECT_THROW(read_traces(directory.path()), std::runtime_error);
  EXPECT_THROW(read_traces(directory.path() / "none"), std::runtime_error);
  directory.write("big", std::string(70000, '\n'));
  EXPECT_THROW(read_traces(directory.path()), std::runtime_error);
}

}  // namespace
}  // namespace godwit::balancer::simulator
