// Errors of system calls: call, then throw with the call's name. Usable from any thread.
#pragma once

#include <string>
#include <system_error>

namespace godwit::sys {

/// Throws std::system_error of `error_number` (default: errno) with `what` as its context.
[[noreturn]] void throw_errno(const std::string& what);
[[noreturn]] void throw_errno(const std::string& what, int error_number);

/// Returns `result` of a system call; throws std::system_error named `what` when it is negative.
template <typename T>
T check(T result, const char* what) {
  if (result < 0) throw_errno(what);
  return result;
}

}  // namespace godwit::sys
