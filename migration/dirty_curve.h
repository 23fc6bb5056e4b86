// How much of its memory a guest dirties in a time: distinct pages, so that twice the time is less
// than twice as much as soon as it writes some of them again. Pure.
#pragma once

#include <cstddef>
#include <vector>

namespace godwit::migration {

class DirtyCurve {
 public:
  struct Point {
    double ms = 0;  // of the guest's running, since all of its memory was clean
    double bytes = 0;
  };

  /// As it was measured. Takes the place of earlier points that say something else: of about as
  /// long a time, of a longer one with less, of a shorter one with more.
  void add(double ms, double bytes);
  /// Ascending.
  const std::vector<Point>& points() const { return points_; }
  /// From two points on, how the guest's writing grows with time is known; of one it is taken to
  /// grow evenly.
  bool known() const { return points_.size() > 1; }

  /// Bytes that are dirty after a time: between two points and below the first by a power of the
  /// time, beyond the last evenly. 0 without a point.
  double after(double ms) const;

 private:
  std::vector<Point> points_;
};

}  // namespace godwit::migration
