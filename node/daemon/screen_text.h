// Text from anywhere made fit for a terminal or another program: no control characters, no bytes
// that are no UTF-8, and a width that is known. Pure functions.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace godwit::node {

/// `text` with every byte that is part of no UTF-8 character replaced by U+FFFD.
std::string valid_utf8(std::string_view text);

/// `text` with everything replaced by '?' that does not take exactly one column of any terminal:
/// control and formatting characters (bidirectional overrides among them), combining and wide ones.
/// What stays is ASCII, Latin, Greek and Cyrillic letters, and dashes and quotes.
std::string printable(std::string_view text);

/// Columns that a printable() text takes.
std::size_t width(std::string_view printable_text);

/// A printable() text cut to at most `columns`; one that was cut ends in '~'.
std::string cut(std::string_view printable_text, std::size_t columns);

/// A printable() text in lines of at most `columns` each, broken at spaces; a longer word is cut.
std::vector<std::string> wrapped(std::string_view printable_text, std::size_t columns);

}  // namespace godwit::node
