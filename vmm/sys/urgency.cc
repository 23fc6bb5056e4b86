#include "vmm/sys/urgency.h"

#include <sched.h>
#include <sys/resource.h>

namespace godwit::sys {

namespace {
// Not the most there is: others still get a tenth of a CPU that such a thread keeps busy.
constexpr int kHighNice = -10;
}  // namespace

void ThreadUrgency::set(pid_t thread, Urgency urgency) noexcept {
  if (urgency == urgency_) return;
  const auto who = static_cast<id_t>(thread);
  if (urgency_ == Urgency::kUsual) {
    if (::sched_getscheduler(thread) != SCHED_OTHER) return;
    usual_nice_ = ::getpriority(PRIO_PROCESS, who);
  }
  const bool real_time = urgency == Urgency::kHighest;
  if (real_time || urgency_ == Urgency::kHighest) {
    const sched_param priority{.sched_priority =
                                   real_time ? ::sched_get_priority_min(SCHED_RR) : 0};
    ::sched_setscheduler(thread, real_time ? SCHED_RR : SCHED_OTHER, &priority);
  }
  ::setpriority(PRIO_PROCESS, who, urgency == Urgency::kUsual ? usual_nice_ : kHighNice);
  urgency_ = urgency;
}

}  // namespace godwit::sys
