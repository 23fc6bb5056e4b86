#include "vmm/vcpu_urgency.h"

#include <sched.h>

#include <chrono>
#include <condition_variable>
#include <mutex>
#include <system_error>

namespace godwit::vmm {

using sys::Urgency;

namespace {
constexpr std::chrono::milliseconds kRush{50};
}  // namespace

void VcpuUrgency::set(Urgency urgency) noexcept {
  rush_ = {};
  const bool rushes = urgency == Urgency::kHighest;
  set_all(rushes ? Urgency::kHigh : urgency);
  if (!rushes) return;
  try {
    rush_ = std::jthread([this](const std::stop_token& stop) { rush(stop); });
  } catch (const std::system_error&) {
    // No thread to be had: high has to do.
  }
}

// Goes before the vCPUs itself: busy ones on every CPU do not keep it from ending in time.
void VcpuUrgency::rush(const std::stop_token& stop) noexcept {
  const sched_param before_them{.sched_priority = ::sched_get_priority_min(SCHED_RR) + 1};
  if (::sched_setscheduler(0, SCHED_RR, &before_them) != 0) return;
  set_all(Urgency::kHighest);
  std::mutex mutex;
  std::unique_lock lock(mutex);
  std::condition_variable_any().wait_for(lock, stop, kRush, [] { return false; });
  set_all(Urgency::kHigh);
}

void VcpuUrgency::set_all(Urgency urgency) noexcept {
  for (const auto& vcpu : vcpus_) vcpu->set_urgency(urgency);
}

}  // namespace godwit::vmm
