#include "vmm/vcpu.h"

#include <fmt/core.h>
#include <signal.h>
#include <time.h>
#include <unistd.h>

#include <exception>

#include "vmm/exit.h"
#include "vmm/sys/schedstat.h"

namespace godwit::vmm {
namespace {

int kick_signal() { return SIGRTMIN; }

/// The handler does nothing: it is there so that the signal ends KVM_RUN.
void install_kick_handler() {
  static const bool installed = [] {
    struct sigaction action = {};
    action.sa_handler = [](int) {};
    ::sigaction(kick_signal(), &action, nullptr);
    return true;
  }();
  (void)installed;
}

std::uint64_t now_ns(clockid_t clock) {
  timespec time = {};
  if (::clock_gettime(clock, &time) != 0) return 0;
  return static_cast<std::uint64_t>(time.tv_sec) * 1'000'000'000 +
         static_cast<std::uint64_t>(time.tv_nsec);
}

/// immediate_exit is read by the kernel and written by whoever kicks.
void set_immediate_exit(kvm::KvmVcpu& vcpu, bool on) {
  std::atomic_ref<__u8>(vcpu.shared().immediate_exit).store(on ? 1 : 0);
}

}  // namespace

void RunControl::set_goal(Goal goal) {
  {
    const std::lock_guard lock(mutex_);
    goal_.store(goal, std::memory_order_release);
  }
  changed_.notify_all();
}

void RunControl::stop_running() {
  const std::lock_guard lock(mutex_);
  const Goal goal = goal_.load();
  if (goal == Goal::kRun || goal == Goal::kHold) {
    goal_.store(Goal::kPark, std::memory_order_release);
  }
}

bool RunControl::hold(bool on) {
  {
    const std::lock_guard lock(mutex_);
    if (goal_.load() != (on ? Goal::kRun : Goal::kHold)) return false;
    goal_.store(on ? Goal::kHold : Goal::kRun, std::memory_order_release);
  }
  changed_.notify_all();
  return true;
}

bool RunControl::running() const {
  const Goal now = goal();
  return now == Goal::kRun || now == Goal::kHold;
}

RunControl::Goal RunControl::park() {
  std::unique_lock lock(mutex_);
  ++parked_;
  changed_.notify_all();
  changed_.wait(lock, [this] { return goal_.load() == Goal::kRun || goal_.load() == Goal::kExit; });
  --parked_;
  return goal_.load();
}

void RunControl::wait_parked(unsigned count) {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return parked_ >= count; });
}

Vcpu::Vcpu(unsigned index, const kvm::Kvm& kvm, kvm::KvmVm& vm, const devices::Bus& ports,
           const devices::Bus& mmio, RunControl& control, Failure on_failure)
    : index_(index),
      kvm_(kvm, vm, index),
      ports_(ports),
      mmio_(mmio),
      control_(control),
      on_failure_(std::move(on_failure)) {
  install_kick_handler();
  thread_ = std::thread([this] { thread_main(); });
}

Vcpu::~Vcpu() { thread_.join(); }

void Vcpu::kick() {
  // Both are needed: the flag for a thread that is about to enter, the signal for one inside.
  set_immediate_exit(kvm_, true);
  ::pthread_kill(thread_.native_handle(), kick_signal());
}

void Vcpu::set_urgency(sys::Urgency urgency) noexcept {
  const pid_t thread = tid_.load(std::memory_order_acquire);
  if (thread != 0) urgency_.set(thread, urgency);
}

std::uint64_t Vcpu::cpu_time_ns() const {
  clockid_t clock = 0;
  auto& thread = const_cast<std::thread&>(thread_);
  if (::pthread_getcpuclockid(thread.native_handle(), &clock) != 0) return 0;
  return now_ns(clock);
}

std::uint64_t Vcpu::wait_time_ns() const {
  const pid_t tid = tid_.load(std::memory_order_acquire);
  const std::uint64_t now = tid == 0 ? 0 : sys::run_delay_ns(tid).value_or(0);
  // A file that could not be opened just now (no descriptors left) is no step back.
  std::uint64_t before = wait_time_ns_.load();
  while (now > before && !wait_time_ns_.compare_exchange_weak(before, now)) {
  }
  return wait_time_ns_.load();
}

void Vcpu::thread_main() {
  tid_.store(::gettid(), std::memory_order_release);
  ::pthread_setname_np(::pthread_self(), fmt::format("vcpu{}", index_).c_str());
  sigset_t all_but_kick;
  ::sigfillset(&all_but_kick);
  ::sigdelset(&all_but_kick, kick_signal());
  ::pthread_sigmask(SIG_SETMASK, &all_but_kick, nullptr);

  while (control_.park() != RunControl::Goal::kExit) {
    if (dead_) {
      control_.stop_running();
      continue;
    }
    try {
      run_until_told();
    } catch (const std::exception& error) {
      fail(error.what());
    }
  }
}

void Vcpu::run_until_told() {
  set_immediate_exit(kvm_, false);
  if (first_entry_ns_.load(std::memory_order_relaxed) == 0) {
    first_entry_ns_.store(now_ns(CLOCK_MONOTONIC), std::memory_order_release);
  }
  // A kick that came before the flag was cleared changed the goal before that.
  while (control_.goal() == RunControl::Goal::kRun) {
    if (!step()) return;
  }
  complete_pending_access();
}

/// One stay in the guest and what follows from its end; false when the guest cannot go on.
bool Vcpu::step() {
  if (!kvm_.run()) return true;
  ExitResult result = dispatch_exit(kvm_.shared_bytes(), ports_, mmio_);
  if (result.kind == ExitResult::Kind::kContinue) return true;
  fail(std::move(result.why));
  return false;
}

/// KVM finishes an access (moves the data, advances RIP) at the next KVM_RUN only; before that the
/// registers are not those of a stopped CPU (KVM API 5, note on KVM_EXIT_IO).
void Vcpu::complete_pending_access() {
  set_immediate_exit(kvm_, true);
  while (kvm_.run()) {
    // An access in several pieces exits once for each.
    ExitResult result = dispatch_exit(kvm_.shared_bytes(), ports_, mmio_);
    if (result.kind == ExitResult::Kind::kFailed) return fail(std::move(result.why));
  }
}

void Vcpu::fail(std::string why) {
  dead_ = true;
  on_failure_(std::move(why));
  control_.stop_running();
}

}  // namespace godwit::vmm
