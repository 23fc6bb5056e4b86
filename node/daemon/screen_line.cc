#include "node/daemon/screen_line.h"

#include <algorithm>

#include "node/daemon/screen_text.h"

namespace godwit::node {

namespace {

const char* sequence(Style style) {
  switch (style) {
    case Style::kPlain:
      return "";
    case Style::kBold:
      return "\033[1m";
    case Style::kDim:
      return "\033[2m";
    case Style::kGood:
      return "\033[32m";
    case Style::kWarn:
      return "\033[33m";
    case Style::kBad:
      return "\033[31m";
  }
  return "";
}

}  // namespace

ScreenLine& ScreenLine::add(std::string_view text, Style style) {
  std::string fitting = cut(printable(text), left_);
  left_ -= width(fitting);
  if (!fitting.empty()) parts_.push_back({std::move(fitting), style});
  return *this;
}

ScreenLine& ScreenLine::cell(std::string_view text, std::size_t columns, Style style) {
  const std::string fitting = cut(printable(text), columns);
  add(fitting, style);
  return add(std::string(std::min(columns - width(fitting), left_), ' '));
}

ScreenLine& ScreenLine::right(std::string_view text, std::size_t columns, Style style) {
  const std::string fitting = cut(printable(text), columns);
  add(std::string(std::min(columns - width(fitting), left_), ' '));
  return add(fitting, style);
}

std::string ScreenLine::text(bool colour) const {
  std::string out;
  for (const Part& part : parts_) {
    const bool styled = colour && part.style != Style::kPlain;
    if (styled) out += sequence(part.style);
    out += part.text;
    if (styled) out += "\033[0m";
  }
  if (!colour) out.erase(out.find_last_not_of(' ') + 1);
  return out;
}

}  // namespace godwit::node
