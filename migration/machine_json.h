// A machine's shape as JSON, and what reads JSON of a peer's: whatever does not fit is a
// ChannelError that names the field, or one of nlohmann's.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <nlohmann/json.hpp>
#include <string>

#include "vmm/config.h"

namespace godwit::migration {

nlohmann::json to_json(const vmm::MachineConfig& machine);
vmm::MachineConfig machine_config(const nlohmann::json& from);

[[noreturn]] void out_of_range(const char* name);

// json's own conversions wrap negative numbers and cast fractions: these take only what fits.
template <typename T>
T number(const nlohmann::json& value, const char* name) {
  if (!value.is_number_unsigned() || value.get<std::uint64_t>() > std::numeric_limits<T>::max()) {
    out_of_range(name);
  }
  return static_cast<T>(value.get<std::uint64_t>());
}

template <typename T>
void get_number(const nlohmann::json& from, const char* name, T& into) {
  into = number<T>(from.at(name), name);
}

/// A string for open() and the like: of bounded length, and no NUL that would cut it short.
void get_text(const nlohmann::json& from, const char* name, std::size_t most, std::string& into);

}  // namespace godwit::migration
