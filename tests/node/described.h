// Holds JSON that the server answers against its schema in docs/openapi.json.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <string>

namespace godwit::node {

inline const char* schema_type(const nlohmann::json& value) {
  if (value.is_null()) return "null";
  if (value.is_boolean()) return "boolean";
  if (value.is_string()) return "string";
  if (value.is_array()) return "array";
  if (value.is_object()) return "object";
  return value.is_number_float() ? "number" : "integer";
}

/// Every field that is answered is described, every one that is described is answered, and each has
/// one of the types and values it may have. `schemas`: what a $ref names.
inline void expect_described(const nlohmann::json& schemas, const nlohmann::json& schema,
                             const nlohmann::json& value, const std::string& where) {
  if (schema.contains("$ref")) {
    const std::string name = schema["$ref"];
    return expect_described(schemas, schemas.at(name.substr(name.rfind('/') + 1)), value, where);
  }
  if (schema.contains("oneOf")) {
    if (value.is_null()) return;
    return expect_described(schemas, schema["oneOf"][0], value, where);
  }
  if (schema.contains("enum")) {
    const auto& values = schema["enum"];
    EXPECT_NE(std::find(values.begin(), values.end(), value), values.end()) << where << value;
  }
  if (schema.contains("type")) {
    const nlohmann::json types =
        schema["type"].is_array() ? schema["type"] : nlohmann::json::array({schema["type"]});
    const std::string type = schema_type(value);
    const bool known = std::any_of(types.begin(), types.end(), [&](const nlohmann::json& each) {
      return each == type || (each == "number" && type == "integer");
    });
    EXPECT_TRUE(known) << where << " is of type " << type << ", described is " << types;
  }
  if (value.is_array() && schema.contains("items")) {
    for (const auto& item : value) expect_described(schemas, schema["items"], item, where + "[]");
  }
  if (!value.is_object() || !schema.contains("properties")) return;
  const auto& described = schema["properties"];
  for (const auto& [name, each] : value.items()) {
    EXPECT_TRUE(described.contains(name)) << where << '.' << name << " is not described";
    if (described.contains(name)) {
      expect_described(schemas, described[name], each, where + '.' + name);
    }
  }
  for (const auto& [name, each] : described.items()) {
    EXPECT_TRUE(value.contains(name)) << where << '.' << name << " is never answered";
  }
}

}  // namespace godwit::node
