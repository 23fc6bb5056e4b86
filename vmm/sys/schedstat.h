// What the Linux scheduler says of a thread beyond its CPU clock. Stateless; any thread.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string_view>

namespace godwit::sys {

/// The second figure of a schedstat file (Documentation/scheduler/sched-stats.rst): nanoseconds
/// runnable but waiting for a CPU. nullopt when the text is none.
std::optional<std::uint64_t> parse_run_delay(std::string_view text);

/// Nanoseconds that thread `tid` of this process has waited for a CPU while it could have run; a
/// wait that still lasts is not in it. nullopt when there is no such thread, or the kernel was
/// built without CONFIG_SCHED_INFO.
std::optional<std::uint64_t> run_delay_ns(pid_t tid);

}  // namespace godwit::sys
