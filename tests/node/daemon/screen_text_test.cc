#include "node/daemon/screen_text.h"

#include <gtest/gtest.h>

namespace godwit::node {
namespace {

TEST(ScreenText, KeepsWordsOfManyLanguages) {
  for (const char* text :
       {"web1.example-2_x", "Größe", "žluťoučký", "Ελλάδα", "Москва", "a – “b”…"}) {
    EXPECT_EQ(printable(text), text);
  }
}

TEST(ScreenText, ReplacesWhatMovesTheCursorOrHasNoKnownWidth) {
  EXPECT_EQ(printable("a\x1b[2Jb\r\n\tc\x7f"), "a?[2Jb???c?");
  EXPECT_EQ(printable("\xC2\x9B"
                      "31m"),
            "?31m");  // CSI as one character
  EXPECT_EQ(printable("a\xE2\x80\xAE"
                      "b"),
            "a?b");                                            // right-to-left override
  EXPECT_EQ(printable("e\xCC\x81"), "e?");                     // a combining accent
  EXPECT_EQ(printable("\xE6\xBC\xA2\xF0\x9F\x98\x80"), "??");  // two columns wide
  EXPECT_EQ(printable(std::string("\0", 1)), "?");
}

TEST(ScreenText, ReplacesBytesThatAreNoUtf8) {
  const std::string bad = "\xEF\xBF\xBD";
  EXPECT_EQ(valid_utf8("a\xFF"), "a" + bad);
  EXPECT_EQ(valid_utf8("\xC3"), bad);                                // cut off
  EXPECT_EQ(valid_utf8("\xC0\x80"), bad + bad);                      // overlong
  EXPECT_EQ(valid_utf8("\xED\xA0\x80"), bad + bad + bad);            // a surrogate
  EXPECT_EQ(valid_utf8("\xF4\x90\x80\x80"), bad + bad + bad + bad);  // above U+10FFFF
  EXPECT_EQ(valid_utf8("ok \xF0\x9F\x98\x80\n"), "ok \xF0\x9F\x98\x80\n");
}

TEST(ScreenText, CutsByColumnsNotBytes) {
  EXPECT_EQ(width("Größe"), 5u);
  EXPECT_EQ(cut("Größe", 5), "Größe");
  EXPECT_EQ(cut("Größe", 4), "Grö~");
  EXPECT_EQ(cut("Größe", 1), "~");
  EXPECT_EQ(cut("Größe", 0), "");
}

TEST(ScreenText, WrapsAtSpaces) {
  using Lines = std::vector<std::string>;
  EXPECT_EQ(wrapped("", 5), Lines{""});
  EXPECT_EQ(wrapped("one two three", 7), (Lines{"one two", "three"}));
  EXPECT_EQ(wrapped("a longest b", 4), (Lines{"a", "lon~", "b"}));
  EXPECT_EQ(wrapped("one two", 100), Lines{"one two"});
}

}  // namespace
}  // namespace godwit::node
