// One line of a terminal, as it is filled from the left: what does not fit is cut off, whatever is
// added, and every text is made printable(). A value; one thread.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace godwit::node {

enum class Style { kPlain, kBold, kDim, kGood, kWarn, kBad };

class ScreenLine {
 public:
  explicit ScreenLine(std::size_t columns) : left_(columns) {}

  ScreenLine& add(std::string_view text, Style style = Style::kPlain);
  /// Exactly `columns` wide, cut or filled up with spaces: on its right, or on its left.
  ScreenLine& cell(std::string_view text, std::size_t columns, Style style = Style::kPlain);
  ScreenLine& right(std::string_view text, std::size_t columns, Style style = Style::kPlain);

  /// Without a line feed; with `colour`, styles as ECMA-48 SGR sequences.
  std::string text(bool colour) const;

 private:
  struct Part {
    std::string text;
    Style style;
  };
  std::size_t left_;
  std::vector<Part> parts_;
};

}  // namespace godwit::node
