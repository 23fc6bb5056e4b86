#include "node/daemon/screen_text.h"

#include <algorithm>
#include <optional>

namespace godwit::node {

namespace {

unsigned byte_at(std::string_view text, std::size_t at) {
  return static_cast<unsigned char>(text[at]);
}

bool continues(std::string_view text, std::size_t at) {
  return at < text.size() && (byte_at(text, at) & 0xC0u) == 0x80u;
}

struct Character {
  std::optional<char32_t> code;  // empty: one byte that is part of no character
  std::size_t bytes = 1;
};

/// The character that begins at `at`. RFC 3629: no overlong forms, no surrogates, at most U+10FFFF.
Character character(std::string_view text, std::size_t at) {
  const unsigned lead = byte_at(text, at);
  if (lead < 0x80) return {static_cast<char32_t>(lead), 1};
  const std::size_t bytes = lead >= 0xF0 ? 4 : lead >= 0xE0 ? 3 : 2;
  if (lead < 0xC2 || lead > 0xF4) return {};
  unsigned code = lead & (0x7Fu >> bytes);
  for (std::size_t i = 1; i < bytes; ++i) {
    if (!continues(text, at + i)) return {};
    code = code << 6 | (byte_at(text, at + i) & 0x3Fu);
  }
  const bool overlong = (bytes == 3 && code < 0x800) || (bytes == 4 && code < 0x10000);
  if (overlong || (code >= 0xD800 && code <= 0xDFFF) || code > 0x10FFFF) return {};
  return {static_cast<char32_t>(code), bytes};
}

bool takes_one_column(char32_t code) {
  return (code >= 0x20 && code < 0x7F) || (code >= 0xA1 && code < 0x250 && code != 0xAD) ||
         (code >= 0x391 && code < 0x3D0 && code != 0x3A2) || (code >= 0x400 && code < 0x482) ||
         (code >= 0x2013 && code <= 0x2014) || (code >= 0x2018 && code <= 0x201E) || code == 0x2026;
}

template <typename Keep>
std::string replaced(std::string_view text, Keep keep, std::string_view replacement) {
  std::string out;
  for (std::size_t at = 0; at < text.size();) {
    const Character next = character(text, at);
    out += next.code && keep(*next.code) ? text.substr(at, next.bytes) : replacement;
    at += next.bytes;
  }
  return out;
}

}  // namespace

std::string valid_utf8(std::string_view text) {
  return replaced(
      text, [](char32_t) { return true; }, "\xEF\xBF\xBD");
}

std::string printable(std::string_view text) { return replaced(text, takes_one_column, "?"); }

std::size_t width(std::string_view printable_text) {
  return static_cast<std::size_t>(
      std::count_if(printable_text.begin(), printable_text.end(),
                    [](char c) { return (static_cast<unsigned char>(c) & 0xC0u) != 0x80u; }));
}

std::string cut(std::string_view printable_text, std::size_t columns) {
  if (width(printable_text) <= columns) return std::string(printable_text);
  if (columns == 0) return {};
  std::size_t at = 0;
  for (std::size_t i = 0; i + 1 < columns; ++i) at += character(printable_text, at).bytes;
  return std::string(printable_text.substr(0, at)) + '~';
}

std::vector<std::string> wrapped(std::string_view printable_text, std::size_t columns) {
  std::vector<std::string> lines{""};
  while (!printable_text.empty()) {
    const auto word = printable_text.substr(0, printable_text.find(' '));
    printable_text.remove_prefix(std::min(word.size() + 1, printable_text.size()));
    std::string& line = lines.back();
    if (line.empty()) {
      line = cut(word, columns);
    } else if (width(line) + 1 + width(word) <= columns) {
      line.append(" ").append(word);
    } else {
      lines.push_back(cut(word, columns));
    }
  }
  return lines;
}

}  // namespace godwit::node
