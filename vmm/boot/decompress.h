// Unpacking of compressed kernels on the host. Input is untrusted, so output and working memory are
// bounded. Any thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

namespace godwit::boot {

enum class Compression { kXz, kZstd };

/// By the first bytes; nullopt for anything that cannot be unpacked here.
std::optional<Compression> compression_of(std::span<const std::byte> packed);

/// Unpacks to at most `max_size` bytes. What follows the compressed stream is ignored. Throws
/// ImageError.
std::vector<std::byte> decompress(Compression kind, std::span<const std::byte> packed,
                                  std::uint64_t max_size);

}  // namespace godwit::boot
