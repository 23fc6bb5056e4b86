// The CPUs that the Linux scheduler lets this process use. Stateless; any thread.
#pragma once

namespace godwit::sys {

/// CPUs that the calling thread may run on (sched_getaffinity(2)): those of its cpuset and of its
/// affinity (CPUAffinity= of a systemd unit, taskset), not all that are online. At least 1.
unsigned usable_cpus();

}  // namespace godwit::sys
