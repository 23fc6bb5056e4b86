#include "migration/dirty_curve.h"

#include <algorithm>
#include <cmath>
#include <iterator>

namespace godwit::migration {

namespace {

constexpr double kAsLong = 1.2;

using Point = DirtyCurve::Point;

/// `b` is later. A set of pages that is written again and again does not grow at all, one that is
/// gone through once grows with the time: no guest leaves these bounds for long.
double exponent(const Point& a, const Point& b) {
  if (a.bytes <= 0) return 1;
  return std::clamp(std::log(b.bytes / a.bytes) / std::log(b.ms / a.ms), 0.0, 1.0);
}

}  // namespace

void DirtyCurve::add(double ms, double bytes) {
  if (ms <= 0) return;
  std::erase_if(points_, [&](const Point& old) {
    const bool as_long = old.ms <= ms * kAsLong && ms <= old.ms * kAsLong;
    return as_long || (old.ms > ms ? old.bytes < bytes : old.bytes > bytes);
  });
  const auto later = std::find_if(points_.begin(), points_.end(),
                                  [&](const Point& point) { return point.ms > ms; });
  points_.insert(later, {ms, bytes});
}

double DirtyCurve::after(double ms) const {
  if (points_.empty() || ms <= 0) return 0;
  if (points_.size() == 1) return points_[0].bytes * ms / points_[0].ms;
  const auto next = std::find_if(points_.begin(), points_.end(),
                                 [&](const Point& point) { return point.ms >= ms; });
  if (next == points_.end()) {
    const Point& last = points_.back();
    const Point& before = *std::prev(points_.end(), 2);
    return last.bytes + (last.bytes - before.bytes) / (last.ms - before.ms) * (ms - last.ms);
  }
  if (next == points_.begin()) {
    return next->bytes * std::pow(ms / next->ms, exponent(*next, *std::next(next)));
  }
  const Point& before = *std::prev(next);
  if (before.bytes <= 0) {
    return next->bytes * (ms - before.ms) / (next->ms - before.ms);
  }
  return before.bytes * std::pow(ms / before.ms, std::log(next->bytes / before.bytes) /
                                                     std::log(next->ms / before.ms));
}

}  // namespace godwit::migration
