// Slows a guest down that dirties its memory faster than the link carries it: in every period its
// vCPUs stand still for a share of it, all at the same time (so that none waits for a lock whose
// holder stands still), and its devices go on. While it is off there is no thread and no cost.
// Owned by a Source.
#pragma once

#include <atomic>
#include <chrono>
#include <thread>

#include "vmm/machine.h"

namespace godwit::migration {

constexpr unsigned kMaxThrottle = 95;  // percent: with more, timers of the guest would be missed

class Throttle {
 public:
  /// `machine` must outlive it.
  explicit Throttle(vmm::Machine& machine) : machine_(machine) {}
  /// Releases the guest.
  ~Throttle() { set(0); }
  Throttle(const Throttle&) = delete;
  Throttle& operator=(const Throttle&) = delete;

  /// Takes that much of the vCPUs' time from now on, percent up to kMaxThrottle; 0 lets them run
  /// freely, and does so before it returns. By one thread.
  void set(unsigned percent);
  unsigned percent() const { return percent_; }
  /// The most it has been.
  unsigned most() const { return most_; }
  /// How long it has been on, milliseconds.
  double ms() const { return ms_; }

 private:
  using Clock = std::chrono::steady_clock;
  void pulse(const std::stop_token& stop);

  vmm::Machine& machine_;
  std::atomic<unsigned> percent_ = 0;
  unsigned most_ = 0;
  double ms_ = 0;
  Clock::time_point since_;
  std::jthread thread_;
};

}  // namespace godwit::migration
