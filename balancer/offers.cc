#include "balancer/offers.h"

#include <algorithm>

#include "balancer/damping.h"

namespace godwit::balancer {

namespace {
constexpr std::ptrdiff_t kSmallest = 2, kErratic = 2;
}

std::vector<GuestView> offers(std::vector<GuestView> guests, double now,
                              const PolicyConfig& policy) {
  std::erase_if(guests, [&](const GuestView& guest) {
    return guest.keep_together != 0 || !rested(guest, now, policy);
  });
  const auto first = [&](std::ptrdiff_t wanted) {
    return guests.begin() + std::min(wanted, std::ssize(guests));
  };
  const auto erratic = first(kSmallest), end = first(kSmallest + kErratic);
  std::partial_sort(
      guests.begin(), erratic, guests.end(),
      [](const GuestView& a, const GuestView& b) { return a.forecast.mean < b.forecast.mean; });
  std::partial_sort(erratic, end, guests.end(), [](const GuestView& a, const GuestView& b) {
    return a.forecast.variance > b.forecast.variance;
  });
  guests.erase(end, guests.end());
  return guests;
}

}  // namespace godwit::balancer
