#include "migration/compression.h"

#include <algorithm>
#include <new>

#include "migration/channel.h"

namespace godwit::migration {

using memory::PageRange;

namespace {

constexpr int kLevel = 1;           // the fastest: more than that makes little less of guest memory
constexpr int kWindowLog = 20;      // of a frame's 1 MiB; what a peer may make us allocate
constexpr unsigned kTryEvery = 64;  // frames: one of them shows what that would make of it
constexpr unsigned kPlainAgain = 16;  // frames: to measure a link that compressed ones do not fill
constexpr double kWorth = 1.1;        // it has to be faster by that
constexpr unsigned kEnoughPlain = 4;  // frames that fill a link, if anything does
constexpr double kUnbounded = 1e18;   // bytes a second
constexpr std::chrono::milliseconds kLongEnough{2};
constexpr std::uint64_t kBusy = 64 << 10;  // bytes that wait
constexpr double kNewest = 0.3;            // weight of the newest measurement

double blend(double before, double now) {
  return before == 0 ? now : before + kNewest * (now - before);
}

double seconds(CompressionJudge::Clock::duration time) {
  return std::chrono::duration<double>(time).count();
}

std::size_t checked(std::size_t result, const char* doing) {
  if (ZSTD_isError(result) != 0)
    throw ChannelError(std::string(doing) + ": " + ZSTD_getErrorName(result));
  return result;
}

}  // namespace

PageCompressor::PageCompressor()
    : context_(ZSTD_createCCtx(), ZSTD_freeCCtx), compressed_(kMaxCompressedBytes) {
  if (!context_) throw std::bad_alloc();
  checked(ZSTD_CCtx_setParameter(context_.get(), ZSTD_c_compressionLevel, kLevel),
          "compress pages");
  checked(ZSTD_CCtx_setParameter(context_.get(), ZSTD_c_windowLog, kWindowLog), "compress pages");
}

std::span<const std::byte> PageCompressor::compress(const memory::GuestMemory& memory,
                                                    std::span<const PageRange> ranges) {
  checked(ZSTD_CCtx_reset(context_.get(), ZSTD_reset_session_only), "compress pages");
  ZSTD_outBuffer out{compressed_.data(), compressed_.size(), 0};
  for (const PageRange& range : ranges) {
    const auto bytes = memory.page_bytes(range);
    ZSTD_inBuffer in{bytes.data(), bytes.size(), 0};
    while (in.pos < in.size) {
      checked(ZSTD_compressStream2(context_.get(), &out, &in, ZSTD_e_continue), "compress pages");
    }
  }
  ZSTD_inBuffer none{nullptr, 0, 0};
  if (checked(ZSTD_compressStream2(context_.get(), &out, &none, ZSTD_e_end), "compress pages") != 0)
    throw ChannelError("compress pages: they do not fit");
  return {compressed_.data(), out.pos};
}

PageDecompressor::PageDecompressor() : context_(ZSTD_createDCtx(), ZSTD_freeDCtx) {
  if (!context_) throw std::bad_alloc();
  checked(ZSTD_DCtx_setParameter(context_.get(), ZSTD_d_windowLogMax, kWindowLog),
          "decompress pages");
}

void PageDecompressor::decompress(std::span<const std::byte> compressed,
                                  const memory::GuestMemory& memory,
                                  std::span<const PageRange> ranges) {
  checked(ZSTD_DCtx_reset(context_.get(), ZSTD_reset_session_only), "decompress pages");
  ZSTD_inBuffer in{compressed.data(), compressed.size(), 0};
  std::size_t left = 1;
  const auto into = [&](std::span<std::byte> bytes) {
    ZSTD_outBuffer out{bytes.data(), bytes.size(), 0};
    while (left != 0) {
      const std::size_t before = in.pos + out.pos;
      left = checked(ZSTD_decompressStream(context_.get(), &out, &in),
                     "the peer sent pages that cannot be decompressed");
      if (in.pos + out.pos == before) break;  // it lacks input, or room
    }
    return out.pos == out.size;
  };
  for (const PageRange& range : ranges) {
    if (!into(memory.page_bytes(range))) {
      throw ChannelError("the peer sent fewer compressed pages than its list says");
    }
  }
  if (left != 0) into({});
  if (left != 0 || in.pos != in.size) {
    throw ChannelError("the peer sent more compressed pages than its list says");
  }
}

void CompressionJudge::compressed(std::uint64_t before, std::uint64_t after, Clock::duration took) {
  ratio_ = blend(
      ratio_, static_cast<double>(before) / static_cast<double>(std::max<std::uint64_t>(after, 1)));
  compresses_ = blend(compresses_, static_cast<double>(before) / std::max(seconds(took), 1e-9));
}

void CompressionJudge::link(std::uint64_t arrived, std::uint64_t waiting, Clock::time_point now) {
  if (waiting < kBusy) {
    busy_since_.reset();
    starved_ = true;
    // Not even pages as they are fill it.
    if (plain_in_a_row_ >= kEnoughPlain) link_ = kUnbounded;
    return;
  }
  if (!busy_since_) {
    busy_since_ = {arrived, now};
  } else if (now - busy_since_->when >= kLongEnough) {
    // Under TLS what waits is a little more than was said: it may seem to be less than before.
    const auto more =
        std::max<std::int64_t>(static_cast<std::int64_t>(arrived - busy_since_->arrived), 0);
    const double rate = static_cast<double>(more) / seconds(now - busy_since_->when);
    link_ = link_ == kUnbounded ? rate : blend(link_, rate);
    busy_since_ = {arrived, now};
  }
}

bool CompressionJudge::pays() const {
  const double link = limit_ > 0 && (link_ == 0 || limit_ < link_) ? limit_ : link_;
  return ratio_ > 0 && link > 0 && std::min(compresses_, link * ratio_) > kWorth * link;
}

bool CompressionJudge::compress_next() {
  const bool look = frames_++ % kTryEvery == 0;
  bool compress = look;
  if (pays()) {
    if (look && starved_) plain_to_go_ = kPlainAgain;
    if (look) starved_ = false;
    compress = plain_to_go_ == 0;
  }
  if (plain_to_go_ > 0) --plain_to_go_;
  plain_in_a_row_ = compress ? 0 : plain_in_a_row_ + 1;
  return compress;
}

}  // namespace godwit::migration
