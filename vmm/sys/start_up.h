// What a process only needed to start.
#pragma once

namespace godwit::sys {

/// Gives back the pages of code and constants, the libraries' too, that start-up has mapped: what
/// is used again is mapped again, from the page cache, a fault each 64 KiB; of the rest, about 3
/// MiB, none counts as this process's any more. Any thread, any time.
void forget_start_up() noexcept;

}  // namespace godwit::sys
