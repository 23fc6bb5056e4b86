#include "vmm/sys/affinity.h"

#include <sched.h>

namespace godwit::sys {

unsigned usable_cpus() {
  // The kernel refuses less room than it has CPUs for (EINVAL): here it is for 65536.
  cpu_set_t sets[64];
  if (::sched_getaffinity(0, sizeof sets, sets) != 0) return 1;
  return static_cast<unsigned>(CPU_COUNT_S(sizeof sets, sets));
}

}  // namespace godwit::sys
