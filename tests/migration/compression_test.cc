#include "migration/compression.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <random>

#include "migration/channel.h"

namespace godwit::migration {
namespace {

using memory::GuestMemory;
using memory::kPageSize;
using memory::PageRange;

constexpr std::uint64_t kPages = 1024;

/// `variety`: kinds of bytes; 256 cannot be compressed.
void fill(GuestMemory& memory, PageRange range, unsigned variety, unsigned seed) {
  std::mt19937 random(seed);
  for (std::byte& byte : memory.page_bytes(range)) {
    byte = static_cast<std::byte>(random() % variety);
  }
}

std::vector<std::byte> compressed(const GuestMemory& memory, std::span<const PageRange> ranges) {
  PageCompressor compressor;
  const auto bytes = compressor.compress(memory, ranges);
  return {bytes.begin(), bytes.end()};
}

const std::vector<PageRange> kScattered = {{1, 3}, {7, 1}, {100, 60}, {900, 100}};

TEST(Compression, PagesThatGoThroughItAreTheSameAndNoOtherIsTouched) {
  GuestMemory source(kPages * kPageSize), destination(kPages * kPageSize);
  PageCompressor compressor;
  PageDecompressor decompressor;
  for (const unsigned variety : {1u, 2u, 20u, 256u}) {
    fill(source, {0, kPages}, variety, variety);
    destination.punch_hole({0, kPages});
    const auto bytes = compressor.compress(source, kScattered);
    EXPECT_LE(bytes.size(), kMaxCompressedBytes);
    decompressor.decompress(bytes, destination, kScattered);
    std::uint64_t end = 0;
    for (const PageRange& range : kScattered) {
      for (const std::byte byte : destination.page_bytes({end, range.first - end}))
        ASSERT_EQ(byte, std::byte{0});
      ASSERT_EQ(std::memcmp(source.page_bytes(range).data(), destination.page_bytes(range).data(),
                            range.bytes()),
                0);
      end = range.end();
    }
  }
}

TEST(Compression, AFullFrameOfRandomPagesFits) {
  GuestMemory memory(kPages * kPageSize);
  const PageRange full{0, kMaxCompressedPages};
  fill(memory, full, 256, 1);
  EXPECT_LE(compressed(memory, {&full, 1}).size(), kMaxCompressedBytes);
}

TEST(Compression, MoreOrFewerPagesThanTheListSaysAreRefused) {
  GuestMemory source(kPages * kPageSize), destination(kPages * kPageSize);
  fill(source, {0, kPages}, 20, 1);
  const auto bytes = compressed(source, kScattered);
  PageDecompressor decompressor;
  auto fewer = kScattered, more = kScattered;
  --fewer.back().count;
  ++more.back().count;
  EXPECT_THROW(decompressor.decompress(bytes, destination, fewer), ChannelError);
  EXPECT_THROW(decompressor.decompress(bytes, destination, more), ChannelError);
  auto longer = bytes;
  longer.push_back(std::byte{0});
  EXPECT_THROW(decompressor.decompress(longer, destination, kScattered), ChannelError);
  for (std::size_t size = 0; size < bytes.size(); size += 1 + size / 3) {
    EXPECT_THROW(decompressor.decompress(std::span(bytes).first(size), destination, kScattered),
                 ChannelError);
  }
  decompressor.decompress(bytes, destination, kScattered);  // none of it has broken the next
}

TEST(Compression, WhatAHostilePeerMakesOfAFrameIsAnErrorOrPages) {
  GuestMemory source(kPages * kPageSize), destination(kPages * kPageSize);
  fill(source, {0, kPages}, 3, 1);
  const auto good = compressed(source, kScattered);
  PageDecompressor decompressor;
  std::mt19937 random(2);
  for (int i = 0; i < 1000; ++i) {
    auto bad = good;
    for (unsigned n = 1 + random() % 4; n > 0; --n)
      bad[random() % bad.size()] = static_cast<std::byte>(random());
    try {
      decompressor.decompress(bad, destination, kScattered);
    } catch (const ChannelError&) {
      // The only exception there may be.
    }
    ASSERT_TRUE(destination.populated({200, 600}).empty());
  }
}

// A window of 128 MiB is what zstd's own limit would have us allocate.
TEST(Compression, AFrameThatWantsAHugeWindowIsRefused) {
  const std::array<unsigned char, 6> header = {0x28, 0xb5, 0x2f, 0xfd, 0x00, 0x88};
  GuestMemory memory(kPages * kPageSize);
  PageDecompressor decompressor;
  EXPECT_THROW(decompressor.decompress(std::as_bytes(std::span(header)), memory, kScattered),
               ChannelError);
}

/// A link that carries that many bytes a millisecond, and a CPU that compresses as many.
class Judged {
 public:
  Judged(double link, double compresses, double ratio, double limit = 0)
      : link_(link), compresses_(compresses), ratio_(ratio), judge_(limit) {}

  /// Sends that many frames; how many were compressed.
  int frames(int count) {
    int chosen = 0;
    constexpr double kFrame = kMaxCompressedPages * kPageSize;
    for (int i = 0; i < count; ++i) {
      const bool compress = judge_.compress_next();
      chosen += compress ? 1 : 0;
      const double size = compress ? kFrame / ratio_ : kFrame;
      const double took = compress ? kFrame / compresses_ : 0.1;
      if (compress) {
        judge_.compressed(static_cast<std::uint64_t>(kFrame), static_cast<std::uint64_t>(size),
                          microseconds(took));
      }
      pass(took);
      judge_.link(static_cast<std::uint64_t>(arrived_), static_cast<std::uint64_t>(waiting_),
                  CompressionJudge::Clock::time_point(microseconds(now_)));
      waiting_ += size;
      if (waiting_ > kBuffer) pass((waiting_ - kBuffer) / link_);  // send() blocks meanwhile
    }
    return chosen;
  }
  void set_link(double link) { link_ = link; }

 private:
  static constexpr double kBuffer = 2 << 20;
  static CompressionJudge::Clock::duration microseconds(double ms) {
    return std::chrono::microseconds(static_cast<std::int64_t>(ms * 1000));
  }
  void pass(double ms) {
    const double gone = std::min(waiting_, link_ * ms);
    waiting_ -= gone;
    arrived_ += gone;
    now_ += ms;
  }

  double link_, compresses_, ratio_;
  double now_ = 0, arrived_ = 0, waiting_ = 0;
  CompressionJudge judge_;
};

TEST(CompressionJudge, CompressesOnASlowLink) {
  Judged judged(12'500, 300'000, 3);  // 100 Mbit/s
  judged.frames(64);
  EXPECT_GT(judged.frames(640), 600);
}

TEST(CompressionJudge, LeavesItOnAFastLinkButForALookNowAndThen) {
  Judged judged(3'000'000, 300'000, 3);  // 24 Gbit/s
  judged.frames(64);
  EXPECT_LE(judged.frames(640), 10);
}

TEST(CompressionJudge, ALimitIsAsGoodAsASlowLink) {
  Judged judged(3'000'000, 300'000, 3, 12.5e6);
  judged.frames(64);
  EXPECT_GT(judged.frames(640), 400);
}

TEST(CompressionJudge, LeavesItWhereNothingComesOfIt) {
  Judged judged(12'500, 300'000, 1.0);
  judged.frames(64);
  EXPECT_LE(judged.frames(640), 10);
}

// TLS adds to what waits, and not to what was said.
TEST(CompressionJudge, ALinkThatStandsStillIsNotTakenForAFastOneUnderTls) {
  CompressionJudge judge;
  const auto at = [](int ms) {
    return CompressionJudge::Clock::time_point(std::chrono::milliseconds(ms));
  };
  judge.compress_next();
  judge.compressed(1 << 20, 1 << 18, std::chrono::milliseconds(4));
  judge.link(0, 1 << 20, at(0));
  judge.link(100'000, 1 << 20, at(10));
  EXPECT_TRUE(judge.compress_next());
  judge.link(100'000 - 22, 1 << 20, at(20));
  EXPECT_TRUE(judge.compress_next());
}

TEST(CompressionJudge, NoticesThatTheLinkHasBecomeFasterThanCompressing) {
  Judged judged(12'500, 300'000, 3);
  judged.frames(256);
  judged.set_link(3'000'000);
  judged.frames(1280);
  EXPECT_LE(judged.frames(640), 10);
}

}  // namespace
}  // namespace godwit::migration
