// For work that nobody waits for.
#pragma once

#include <sys/resource.h>

namespace godwit::sys {

/// From now on the calling thread runs at the lowest priority (nice 19). Best effort.
inline void run_in_background() noexcept { ::setpriority(PRIO_PROCESS, 0, 19); }

}  // namespace godwit::sys
