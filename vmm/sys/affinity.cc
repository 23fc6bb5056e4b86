#include "vmm/sys/affinity.h"

#include <sched.h>

#include <memory>

namespace godwit::sys {

unsigned usable_cpus() {
  // The kernel refuses a set that is smaller than its own with EINVAL.
  for (int most = CPU_SETSIZE; most <= CPU_SETSIZE << 6; most *= 2) {
    const std::unique_ptr<cpu_set_t, void (*)(cpu_set_t*)> set(CPU_ALLOC(most),
                                                               [](cpu_set_t* s) { CPU_FREE(s); });
    const std::size_t size = CPU_ALLOC_SIZE(most);
    if (set && ::sched_getaffinity(0, size, set.get()) == 0)
      return static_cast<unsigned>(CPU_COUNT_S(size, set.get()));
  }
  return 1;
}

}  // namespace godwit::sys
