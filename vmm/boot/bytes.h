// Bounds-checked reading and writing of little-endian structures in byte spans.
#pragma once

#include <cstdint>
#include <cstring>
#include <optional>
#include <span>
#include <stdexcept>
#include <type_traits>

namespace godwit::boot {

/// The T at `offset`, or nullopt when it does not lie inside `bytes`.
template <typename T>
std::optional<T> peek(std::span<const std::byte> bytes, std::uint64_t offset) {
  static_assert(std::is_trivially_copyable_v<T>);
  if (offset > bytes.size() || bytes.size() - offset < sizeof(T)) return std::nullopt;
  T value;
  std::memcpy(&value, bytes.data() + offset, sizeof value);
  return value;
}

/// [offset, offset + size) of `bytes`, or nullopt when that leaves it.
inline std::optional<std::span<const std::byte>> slice(std::span<const std::byte> bytes,
                                                       std::uint64_t offset, std::uint64_t size) {
  if (offset > bytes.size() || size > bytes.size() - offset) return std::nullopt;
  return bytes.subspan(offset, size);
}

/// For structures of our own: outside is a programming error, std::logic_error.
template <typename T>
void poke(std::span<std::byte> bytes, std::size_t offset, const T& value) {
  static_assert(std::is_trivially_copyable_v<T>);
  if (offset > bytes.size() || bytes.size() - offset < sizeof(T)) {
    throw std::logic_error("poke outside a structure");
  }
  std::memcpy(bytes.data() + offset, &value, sizeof value);
}

}  // namespace godwit::boot
