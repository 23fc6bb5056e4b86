// How soon a thread gets a CPU that others want, too.
#pragma once

#include <sys/types.h>

namespace godwit::sys {

enum class Urgency {
  kUsual,
  kHigh,     // nice -10: more of the CPU, but others may end their slices first
  kHighest,  // SCHED_RR: at once. For moments: nothing else runs on its CPU meanwhile
};

/// One thread's. Best effort: it needs CAP_SYS_NICE, and a thread that somebody has put under
/// another policy than SCHED_OTHER before is left as it is. One caller at a time.
class ThreadUrgency {
 public:
  void set(pid_t thread, Urgency urgency) noexcept;

 private:
  Urgency urgency_ = Urgency::kUsual;
  int usual_nice_ = 0;
};

}  // namespace godwit::sys
