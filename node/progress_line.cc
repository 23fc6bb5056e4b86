#include "node/progress_line.h"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <cstdio>

namespace godwit::node {

ProgressLine::ProgressLine() : shown_(::isatty(STDERR_FILENO) == 1) {}

unsigned ProgressLine::columns() {
  winsize size{};
  const bool known = ::ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 1;
  return (known ? size.ws_col : 80u) - 1;
}

void ProgressLine::draw(const std::string& line) {
  if (!shown_) return;
  fmt::print(stderr, "\r\033[K{}", line);
  drawn_ = true;
}

void ProgressLine::clear() {
  if (drawn_) fmt::print(stderr, "\r\033[K");
  drawn_ = false;
}

}  // namespace godwit::node
