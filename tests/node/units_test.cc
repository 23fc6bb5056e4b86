#include "node/units.h"

#include <gtest/gtest.h>

namespace godwit::node {
namespace {

template <typename Parse>
std::string why_not(Parse parse, std::string_view text) {
  try {
    parse(text);
  } catch (const UnitError& error) {
    return error.what();
  }
  return "accepted";
}

TEST(ParseSize, TakesBinaryUnitsInAnySpelling) {
  EXPECT_EQ(parse_size("256M"), 256ull << 20);
  EXPECT_EQ(parse_size("2G"), 2ull << 30);
  EXPECT_EQ(parse_size("2gib"), 2ull << 30);
  EXPECT_EQ(parse_size("1.5G"), 3ull << 29);
  EXPECT_EQ(parse_size("17T"), 17ull << 40);
  EXPECT_EQ(parse_size("4096B"), 4096u);
  EXPECT_EQ(parse_size("3K"), 3072u);
}

TEST(ParseSize, TakesZeroWithAndWithoutUnit) {
  EXPECT_EQ(parse_size("0"), 0u);
  EXPECT_EQ(parse_size("0M"), 0u);
}

TEST(ParseSize, RefusesAMissingUnit) {
  EXPECT_EQ(why_not(parse_size, "256"), "256 lacks a unit, such as 256M or 2G");
  EXPECT_EQ(why_not(parse_size, "1.5"), "1.5 lacks a unit, such as 256M or 2G");
}

TEST(ParseSize, RefusesOverflow) {
  EXPECT_EQ(why_not(parse_size, "18446744073709551616B"), "18446744073709551616B is too large");
  EXPECT_EQ(why_not(parse_size, "16777216T"), "16777216T is too large");
  EXPECT_EQ(parse_size("18446744073709551615B"), UINT64_MAX);
  EXPECT_EQ(why_not(parse_size, "99999999999999999999999999G"),
            "99999999999999999999999999G is too large");
}

TEST(ParseSize, RefusesGarbageOnOneLine) {
  for (const auto* text : {"", "M", "-1M", "+1M", " 1M", "1M ", "1 M", "1.M", "1..5M", "1,5M",
                           "0x10", "1e3M", "256Q", "256MM", "1.1234567M", "nan", "1M\n2"}) {
    const std::string why = why_not(parse_size, text);
    EXPECT_NE(why.find("is not a size"), std::string::npos) << text << ": " << why;
    EXPECT_EQ(why.find('\n'), std::string::npos);
  }
}

TEST(ParseTime, TakesEveryUnit) {
  EXPECT_EQ(parse_time_ns("50ms"), 50'000'000u);
  EXPECT_EQ(parse_time_ns("60s"), 60'000'000'000u);
  EXPECT_EQ(parse_time_ns("1.5s"), 1'500'000'000u);
  EXPECT_EQ(parse_time_ns("250us"), 250'000u);
  EXPECT_EQ(parse_time_ns("10min"), 600'000'000'000u);
  EXPECT_EQ(parse_time_ns("0"), 0u);
}

TEST(ParseTime, RefusesWhatIsNone) {
  EXPECT_EQ(why_not(parse_time_ns, "50"), "50 lacks a unit, such as 50ms or 60s");
  EXPECT_EQ(why_not(parse_time_ns, "50m"), "\"50m\" is not a time, such as 50ms or 60s");
  EXPECT_EQ(why_not(parse_time_ns, "-5s"), "\"-5s\" is not a time, such as 50ms or 60s");
  EXPECT_EQ(why_not(parse_time_ns, "18446744074s"), "18446744074s is too large");
}

TEST(ParseRate, CountsBitsInPowersOfAThousand) {
  EXPECT_EQ(parse_rate("1Gbit"), 1'000'000'000u);
  EXPECT_EQ(parse_rate("2.5gbit"), 2'500'000'000u);
  EXPECT_EQ(parse_rate("0"), 0u);
  EXPECT_EQ(why_not(parse_rate, "1G"), "\"1G\" is not a rate, such as 1Gbit or 800Mbit");
  EXPECT_EQ(why_not(parse_rate, "1000"), "1000 lacks a unit, such as 1Gbit or 800Mbit");
}

TEST(ParseCount, KeepsToItsRange) {
  const auto cpus = [](std::string_view text) { return parse_count(text, 1, 16); };
  EXPECT_EQ(cpus("1"), 1u);
  EXPECT_EQ(cpus("16"), 16u);
  for (const auto* text : {"0", "17", "", "two", "1.5", "-1", "1x"}) {
    EXPECT_NE(why_not(cpus, text).find("is not a number from 1 to 16"), std::string::npos) << text;
  }
  EXPECT_EQ(why_not(cpus, "99999999999999999999"), "99999999999999999999 is too large");
}

TEST(FormatSize, ReadsBackWhatItSays) {
  EXPECT_EQ(format_size(256ull << 20), "256M");
  EXPECT_EQ(format_size(17ull << 40), "17T");
  EXPECT_EQ(format_size((2ull << 30) + (512ull << 20)), "2.5G");
  EXPECT_EQ(format_size(4096), "4K");
  EXPECT_EQ(format_size(0), "0B");
  EXPECT_EQ(parse_size(format_size(1536ull << 20)), 1536ull << 20);
}

TEST(FormatTime, PicksAUnitForPeople) {
  EXPECT_EQ(format_time_ms(0.25), "250 us");
  EXPECT_EQ(format_time_ms(35), "35 ms");
  EXPECT_EQ(format_time_ms(1250), "1.25 s");
  EXPECT_EQ(format_time_ms(200'000), "3 min 20 s");
}

}  // namespace
}  // namespace godwit::node
