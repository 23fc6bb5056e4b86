// What the host refuses is told with the option that asked for it.
#pragma once

#include <fmt/format.h>

#include <exception>
#include <stdexcept>

namespace godwit::sys {

/// `action`'s result; what it throws is thrown as a std::runtime_error, "--OPTION: why".
template <typename Action>
auto for_option(const char* option, Action action) {
  try {
    return action();
  } catch (const std::exception& error) {
    throw std::runtime_error(fmt::format("--{}: {}", option, error.what()));
  }
}

}  // namespace godwit::sys
