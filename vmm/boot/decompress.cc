#include "vmm/boot/decompress.h"

#include <fmt/core.h>
#include <lzma.h>
#include <zstd.h>

#include <array>
#include <cstring>
#include <memory>

#include "vmm/boot/entry.h"
#include "vmm/boot/layout.h"

namespace godwit::boot {
namespace {

constexpr std::uint64_t kXzMemoryLimit =
    192 * kMiB;  // Linux packs with a dictionary of 32 to 128 MiB
constexpr std::array<unsigned char, 6> kXzMagic = {0xfd, '7', 'z', 'X', 'Z', 0};
constexpr std::array<unsigned char, 4> kZstdMagic = {0x28, 0xb5, 0x2f, 0xfd};

template <std::size_t N>
bool starts_with(std::span<const std::byte> bytes, const std::array<unsigned char, N>& magic) {
  return bytes.size() >= N && std::memcmp(bytes.data(), magic.data(), N) == 0;
}

std::vector<std::byte> decompress_xz(std::span<const std::byte> packed, std::uint64_t max_size) {
  std::vector<std::byte> out(max_size);
  lzma_stream stream = LZMA_STREAM_INIT;
  const std::unique_ptr<lzma_stream, void (*)(lzma_stream*)> guard(&stream, lzma_end);
  if (lzma_stream_decoder(&stream, kXzMemoryLimit, 0) != LZMA_OK) {
    throw ImageError("no memory to unpack its XZ payload");
  }
  stream.next_in = reinterpret_cast<const std::uint8_t*>(packed.data());
  stream.avail_in = packed.size();
  stream.next_out = reinterpret_cast<std::uint8_t*>(out.data());
  stream.avail_out = out.size();
  const lzma_ret result = lzma_code(&stream, LZMA_FINISH);
  if (result != LZMA_STREAM_END) {
    throw ImageError(
        fmt::format("its XZ payload is damaged (liblzma error {})", static_cast<unsigned>(result)));
  }
  out.resize(stream.total_out);
  return out;
}

std::vector<std::byte> decompress_zstd(std::span<const std::byte> packed, std::uint64_t max_size) {
  // One frame; the boot protocol appends the unpacked size to it.
  const std::size_t frame = ZSTD_findFrameCompressedSize(packed.data(), packed.size());
  if (ZSTD_isError(frame) != 0) {
    throw ImageError(fmt::format("its ZSTD payload is damaged ({})", ZSTD_getErrorName(frame)));
  }
  std::vector<std::byte> out(max_size);
  const std::size_t size = ZSTD_decompress(out.data(), out.size(), packed.data(), frame);
  if (ZSTD_isError(size) != 0) {
    throw ImageError(fmt::format("its ZSTD payload is damaged ({})", ZSTD_getErrorName(size)));
  }
  out.resize(size);
  return out;
}

}  // namespace

std::optional<Compression> compression_of(std::span<const std::byte> packed) {
  if (starts_with(packed, kXzMagic)) return Compression::kXz;
  if (starts_with(packed, kZstdMagic)) return Compression::kZstd;
  return std::nullopt;
}

std::vector<std::byte> decompress(Compression kind, std::span<const std::byte> packed,
                                  std::uint64_t max_size) {
  return kind == Compression::kXz ? decompress_xz(packed, max_size)
                                  : decompress_zstd(packed, max_size);
}

}  // namespace godwit::boot
