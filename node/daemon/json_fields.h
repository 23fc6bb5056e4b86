// Fields of JSON that another process wrote, another version of us perhaps, or a liar: what is
// missing, null, of another type or not finite is simply not there. Pure functions.
#pragma once

#include <cmath>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

namespace godwit::node {

/// The field itself; null when there is none, or `object` is no object.
inline const nlohmann::json& field(const nlohmann::json& object, const char* name) {
  static const nlohmann::json kNone;
  if (!object.is_object()) return kNone;
  const auto found = object.find(name);
  return found != object.end() ? *found : kNone;
}

/// A finite number; a boolean is 0 or 1.
inline std::optional<double> number_in(const nlohmann::json& object, const char* name) {
  const nlohmann::json& value = field(object, name);
  if (value.is_boolean()) return value.get<bool>() ? 1 : 0;
  if (!value.is_number() || !std::isfinite(value.get<double>())) return {};
  return value.get<double>();
}

/// The id of a record; 0 is none.
inline std::uint64_t record_in(const nlohmann::json& object) {
  const nlohmann::json& value = field(object, "record");
  return value.is_number_unsigned() ? value.get<std::uint64_t>() : 0;
}

inline std::optional<std::string> text_in(const nlohmann::json& object, const char* name) {
  const nlohmann::json& value = field(object, name);
  if (!value.is_string()) return {};
  return value.get<std::string>();
}

/// The elements of an array, by reference; of anything else none.
inline const nlohmann::json& list_in(const nlohmann::json& object, const char* name) {
  static const nlohmann::json kEmpty = nlohmann::json::array();
  const nlohmann::json& value = field(object, name);
  return value.is_array() ? value : kEmpty;
}

}  // namespace godwit::node
