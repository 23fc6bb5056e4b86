// Little-endian values in and out of the bytes of a guest access. x86 is the only host, so a copy
// is enough; what matters is that no width is ever trusted.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

namespace godwit::devices {

/// The value of an access of at most 8 bytes.
inline std::uint64_t load_le(std::span<const std::byte> data) {
  std::uint64_t value = 0;
  std::memcpy(&value, data.data(), std::min(data.size(), sizeof value));
  return value;
}

/// Answers an access of at most 8 bytes with the low bytes of `value`.
inline void store_le(std::span<std::byte> data, std::uint64_t value) {
  std::memcpy(data.data(), &value, std::min(data.size(), sizeof value));
}

/// What a read of nothing gives.
inline void fill_ones(std::span<std::byte> data) {
  std::fill(data.begin(), data.end(), std::byte{0xff});
}

/// Answers a read at `offset` out of a register file: bytes outside it read as zero.
inline void read_window(std::span<const std::byte> registers, std::uint64_t offset,
                        std::span<std::byte> data) {
  std::fill(data.begin(), data.end(), std::byte{0});
  if (offset >= registers.size()) return;
  const auto size = std::min<std::uint64_t>(data.size(), registers.size() - offset);
  std::memcpy(data.data(), registers.data() + offset, size);
}

}  // namespace godwit::devices
