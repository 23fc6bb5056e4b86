// One line on stderr that keeps being redrawn, where that is a terminal; elsewhere nothing. One
// thread.
#pragma once

#include <string>

namespace godwit::node {

class ProgressLine {
 public:
  ProgressLine();
  ~ProgressLine() { clear(); }
  ProgressLine(const ProgressLine&) = delete;
  ProgressLine& operator=(const ProgressLine&) = delete;

  bool shown() const { return shown_; }
  /// That fit into the line.
  static unsigned columns();
  void draw(const std::string& line);
  /// Before anything else is printed.
  void clear();

 private:
  const bool shown_;
  bool drawn_ = false;
};

}  // namespace godwit::node
