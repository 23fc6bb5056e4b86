// One virtual CPU: its KVM descriptor, its thread and its run loop. Owned by Machine. All vCPUs of
// a machine share one RunControl, which says whether they run; a vCPU is parked (its state can be
// read and written by others) or running.
#pragma once

#include <pthread.h>
#include <sys/types.h>

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <string>
#include <thread>

#include "vmm/devices/bus.h"
#include "vmm/kvm/kvm.h"
#include "vmm/sys/urgency.h"

namespace godwit::vmm {

/// What all vCPU threads are to do. Any thread.
class RunControl {
 public:
  enum class Goal { kPark, kRun, kHold, kExit };  // kHold: a moment's rest while running

  Goal goal() const { return goal_.load(std::memory_order_acquire); }
  void set_goal(Goal goal);
  /// Replaces kRun and kHold with kPark; leaves others alone.
  void stop_running();
  /// Replaces kRun with kHold, or kHold with kRun; leaves others alone. True if it did.
  bool hold(bool on);
  /// kRun or kHold.
  bool running() const;
  /// For vCPU threads: blocks while the goal is kPark or kHold, counted as parked.
  Goal park();
  /// Blocks until `count` threads are parked.
  void wait_parked(unsigned count);

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::atomic<Goal> goal_ = Goal::kPark;
  unsigned parked_ = 0;
};

class Vcpu {
 public:
  /// Called on the vCPU thread when the guest cannot go on, with one line for the user.
  using Failure = std::function<void(std::string why)>;

  /// Starts the thread, parked. What is passed by reference must outlive the vCPU.
  Vcpu(unsigned index, const kvm::Kvm& kvm, kvm::KvmVm& vm, const devices::Bus& ports,
       const devices::Bus& mmio, RunControl& control, Failure on_failure);
  /// Joins the thread: the control's goal must be kExit and the vCPU kicked.
  ~Vcpu();
  Vcpu(const Vcpu&) = delete;
  Vcpu& operator=(const Vcpu&) = delete;

  /// Only while the vCPU is parked.
  kvm::KvmVcpu& kvm() { return kvm_; }
  /// Makes the thread look at the control again soon. Any thread.
  void kick();
  /// Its thread's; nothing happens before there is one. One caller at a time.
  void set_urgency(sys::Urgency urgency) noexcept;
  /// CPU time of the thread, nanoseconds: what schedstat's first figure says, but not only up to
  /// the last timer tick. Any thread.
  std::uint64_t cpu_time_ns() const;
  /// Nanoseconds the thread was runnable but waited for a CPU; 0 where the kernel does not count
  /// that. Never steps back. Any thread.
  std::uint64_t wait_time_ns() const;
  /// CLOCK_MONOTONIC at the first entry into the guest; 0 before.
  std::uint64_t first_entry_ns() const { return first_entry_ns_.load(std::memory_order_acquire); }

 private:
  void thread_main();
  void run_until_told();
  void complete_pending_access();
  bool step();
  void fail(std::string why);

  const unsigned index_;
  kvm::KvmVcpu kvm_;
  const devices::Bus& ports_;
  const devices::Bus& mmio_;
  RunControl& control_;
  Failure on_failure_;
  std::atomic<std::uint64_t> first_entry_ns_ = 0;
  std::atomic<pid_t> tid_ = 0;                           // 0 until the thread is there
  mutable std::atomic<std::uint64_t> wait_time_ns_ = 0;  // the last answer
  sys::ThreadUrgency urgency_;
  bool dead_ = false;  // of the thread: this guest cannot go on
  std::thread thread_;
};

}  // namespace godwit::vmm
