#include "migration/throttle.h"

#include <algorithm>
#include <condition_variable>
#include <mutex>

namespace godwit::migration {

namespace {
// Short beside what a person or a network peer notices, long beside a kick.
constexpr std::chrono::microseconds kPeriod{20'000};
}  // namespace

void Throttle::set(unsigned percent) {
  percent_ = std::min(percent, kMaxThrottle);
  most_ = std::max(most_, percent_.load());
  if (percent_ > 0 && !thread_.joinable()) {
    since_ = Clock::now();
    thread_ = std::jthread([this](const std::stop_token& stop) { pulse(stop); });
  } else if (percent_ == 0 && thread_.joinable()) {
    thread_ = {};  // stops and joins it
    machine_.hold(false);
    ms_ += std::chrono::duration<double, std::milli>(Clock::now() - since_).count();
  }
}

void Throttle::pulse(const std::stop_token& stop) {
  std::mutex mutex;
  std::condition_variable_any wake;
  std::unique_lock lock(mutex);
  const auto sleep = [&](std::chrono::microseconds time) {
    wake.wait_for(lock, stop, time, [&] { return stop.stop_requested(); });
  };
  while (!stop.stop_requested()) {
    const auto held = kPeriod * percent_.load() / 100;
    machine_.hold(true);
    sleep(held);
    machine_.hold(false);
    sleep(kPeriod - held);
  }
}

}  // namespace godwit::migration
