// The life of one block request: virtio 1.2, 5.2.6.
#include <linux/fs.h>
#include <sys/ioctl.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <memory>
#include <utility>

#include "vmm/devices/virtio/blk.h"

namespace godwit::devices {
namespace {

constexpr std::uint32_t kIn = 0, kOut = 1, kFlush = 4, kGetId = 8, kDiscard = 11, kWriteZeroes = 13;
constexpr std::uint8_t kOk = 0, kIoError = 1, kUnsupported = 2;
constexpr std::uint64_t kFeatureFlush = 1ULL << 9;
constexpr std::uint64_t kSectorSize = 512;
constexpr std::uint64_t kMaxTransfer = 1ULL << 30;  // well below what one preadv(2) moves
constexpr std::uint32_t kUnmap = 1;
constexpr unsigned kMaxRetries = 100;

struct Header {
  std::uint32_t type;
  std::uint32_t reserved;
  std::uint64_t sector;
};

struct RangeSegment {
  std::uint64_t sector;
  std::uint32_t count;
  std::uint32_t flags;
};

alignas(4096) constexpr std::array<std::byte, 1 << 16> kZeroes{};
constexpr std::size_t kBounceSize = 1 << 16;
constexpr std::size_t kBounceAlignment = 4096;  // of any disk
constexpr std::size_t kZeroBuffers = 64;        // 4 MiB a write

template <typename Buffers>
std::uint64_t total(const Buffers& buffers, auto bytes_of) {
  std::uint64_t sum = 0;
  for (const auto& buffer : buffers) sum += bytes_of(buffer).size();
  return sum;
}

std::span<const std::byte> bytes_of_readable(const std::span<const std::byte>& span) {
  return span;
}
std::span<std::byte> bytes_of_writable(const memory::GuestWrite& write) { return write.bytes(); }

/// Copies out.size() bytes at `offset` of what the driver sent; the layout into descriptors is its
/// own affair (2.7.4). False when there are fewer.
bool gather(const Chain& chain, std::uint64_t offset, std::span<std::byte> out) {
  for (auto part : chain.readable) {
    if (offset >= part.size()) {
      offset -= part.size();
      continue;
    }
    part = part.subspan(offset, std::min<std::uint64_t>(part.size() - offset, out.size()));
    std::copy(part.begin(), part.end(), out.begin());
    out = out.subspan(part.size());
    offset = 0;
    if (out.empty()) return true;
  }
  return out.empty();
}

template <typename T>
bool gather_as(const Chain& chain, std::uint64_t offset, T& out) {
  return gather(chain, offset, std::as_writable_bytes(std::span(&out, 1)));
}

/// Appends bytes [skip, skip + length) of a sequence of buffers.
void slice(std::vector<iovec>& out, const auto& buffers, auto bytes_of, std::uint64_t skip,
           std::uint64_t length) {
  for (const auto& buffer : buffers) {
    const auto bytes = bytes_of(buffer);
    if (skip >= bytes.size()) {
      skip -= bytes.size();
      continue;
    }
    const std::uint64_t size = std::min<std::uint64_t>(bytes.size() - skip, length);
    if (size == 0) return;
    out.push_back({const_cast<std::byte*>(bytes.data()) + skip, size});
    length -= size;
    skip = 0;
  }
}

}  // namespace

void VirtioBlk::begin(Request& request) {
  request.operation = IoOperation{.id = id_of(request)};
  request.buffers.clear();
  request.done = 0;
  request.retries = 0;
  request.data_in = request.may_emulate = request.emulated = request.sync_after = false;
  Header header;
  if (request.chain.writable.empty() || !gather_as(request.chain, 0, header)) {
    // No header, or nowhere to say how it went.
    request.chain.writable.clear();
    free_.push_back(id_of(request));
    break_device();
    return;
  }
  switch (header.type) {
    case kIn:
    case kOut:
      begin_transfer(request, header.type == kIn, header.sector);
      break;
    case kFlush:
      request.operation.kind = IoOperation::Kind::kSync;
      submit(request);
      break;
    case kGetId:
      answer_id(request);
      break;
    case kDiscard:
    case kWriteZeroes:
      begin_range(request, header.type == kDiscard);
      break;
    default:
      finish(request, kUnsupported);
  }
}

void VirtioBlk::begin_transfer(Request& request, bool in, std::uint64_t sector) {
  const Chain& chain = request.chain;
  const std::uint64_t length = in ? total(chain.writable, bytes_of_writable) - 1
                                  : total(chain.readable, bytes_of_readable) - sizeof(Header);
  const std::uint64_t sectors = length / kSectorSize;
  if (length % kSectorSize != 0 || length > kMaxTransfer || sectors > config_.capacity ||
      sector > config_.capacity - sectors || (!in && image_.read_only())) {
    finish(request, kIoError);
    return;
  }
  if (in) {
    slice(request.buffers, chain.writable, bytes_of_writable, 0, length);
  } else {
    slice(request.buffers, chain.readable, bytes_of_readable, sizeof(Header), length);
  }
  request.data_in = in;
  request.operation.kind = in ? IoOperation::Kind::kRead : IoOperation::Kind::kWrite;
  request.operation.durable = (features_ & kFeatureFlush) == 0;
  request.operation.offset = sector * kSectorSize;
  request.operation.length = length;
  if (length == 0) {
    finish(request, kOk);
  } else if (request.operation.offset % image_.block_size() != 0 ||
             length % image_.block_size() != 0) {
    finish(request, kIoError);
  } else {
    submit(request);
  }
}

void VirtioBlk::begin_range(Request& request, bool discard) {
  RangeSegment segment;
  if (image_.read_only() || !gather_as(request.chain, sizeof(Header), segment) ||
      total(request.chain.readable, bytes_of_readable) != sizeof(Header) + sizeof segment) {
    finish(request, kIoError);  // 5.2.6.2; also for more segments than max_discard_seg
    return;
  }
  if ((segment.flags & ~(discard ? 0 : kUnmap)) != 0) {
    finish(request, kUnsupported);
    return;
  }
  if (segment.count > config_.max_discard_sectors || segment.count > config_.capacity ||
      segment.sector > config_.capacity - segment.count) {
    finish(request, kIoError);
    return;
  }
  std::uint64_t range[2] = {segment.sector * kSectorSize, segment.count * kSectorSize};
  request.operation.offset = range[0];
  request.operation.length = range[1];
  if (segment.count == 0) {
    finish(request, kOk);
  } else if (discard && image_.block_device()) {
    // No asynchronous form of it in the kernels we run on.
    if (::ioctl(image_.fd(), BLKDISCARD, range) != 0) return answer_error(request, errno);
    finish(request, kOk);
  } else {
    request.operation.kind = discard || (segment.flags & kUnmap) != 0 ? IoOperation::Kind::kDiscard
                                                                      : IoOperation::Kind::kZero;
    request.may_emulate = !discard;
    request.sync_after = (features_ & kFeatureFlush) == 0;
    submit(request);
  }
}

void VirtioBlk::answer_id(Request& request) {
  std::uint64_t written = 0;
  const std::uint64_t room = total(request.chain.writable, bytes_of_writable) - 1;
  std::vector<iovec> parts;
  slice(parts, request.chain.writable, bytes_of_writable, 0,
        std::min<std::uint64_t>(room, kSerialSize));
  for (const iovec& part : parts) {
    std::memcpy(part.iov_base, serial_.data() + written, part.iov_len);
    written += part.iov_len;
  }
  finish(request, kOk, written == room ? written + 1 : written);
}

void VirtioBlk::submit(Request& request) {
  const bool transfer = request.operation.kind == IoOperation::Kind::kRead ||
                        request.operation.kind == IoOperation::Kind::kWrite;
  if (transfer && (request.bounce || !aligned(request))) return submit_bounced(request);
  request.operation.buffers = request.buffers;
  engine_->submit(request.operation);
}

bool VirtioBlk::aligned(const Request& request) const {
  const auto mask = std::uint64_t{image_.buffer_alignment()} - 1;
  if (mask == 0) return true;
  return std::all_of(request.buffers.begin(), request.buffers.end(), [&](const iovec& buffer) {
    return ((reinterpret_cast<std::uintptr_t>(buffer.iov_base) | buffer.iov_len) & mask) == 0 &&
           buffer.iov_len % image_.block_size() == 0;
  });
}

/// A piece of the transfer at a time, so that a guest cannot have us keep much for it.
void VirtioBlk::submit_bounced(Request& request) {
  if (!request.bounce) {
    request.bounce.reset(
        static_cast<std::byte*>(std::aligned_alloc(kBounceAlignment, kBounceSize)));
    if (!request.bounce) return failed(request, ENOMEM);
  }
  request.bounced = {request.bounce.get(), 0};
  for (const iovec& buffer : request.buffers) {
    const std::size_t size = std::min(buffer.iov_len, kBounceSize - request.bounced.iov_len);
    if (!request.data_in) {
      std::memcpy(request.bounce.get() + request.bounced.iov_len, buffer.iov_base, size);
    }
    request.bounced.iov_len += size;
  }
  request.operation.buffers = std::span(&request.bounced, 1);
  engine_->submit(request.operation);
}

namespace {

/// Copies the first `size` bytes of `from` to where the guest wants them.
void scatter(std::span<const iovec> buffers, const std::byte* from, std::uint64_t size) {
  for (const iovec& buffer : buffers) {
    const std::uint64_t part = std::min<std::uint64_t>(buffer.iov_len, size);
    std::memcpy(buffer.iov_base, from, part);
    from += part;
    size -= part;
  }
}

}  // namespace

/// Goes on after the first `moved` bytes of what was submitted.
void VirtioBlk::submit_rest(Request& request, std::uint64_t moved) {
  auto& buffers = request.buffers;
  if (request.emulated) {
    buffers.clear();
    for (std::uint64_t left = request.operation.length - request.done;
         left > 0 && buffers.size() < kZeroBuffers;) {
      const auto size = std::min<std::uint64_t>(left, kZeroes.size());
      buffers.push_back({const_cast<std::byte*>(kZeroes.data()), size});
      left -= size;
    }
  } else {
    auto first = buffers.begin();
    while (first != buffers.end() && moved >= first->iov_len) moved -= first++->iov_len;
    buffers.erase(buffers.begin(), first);
    buffers.front().iov_base = static_cast<std::byte*>(buffers.front().iov_base) + moved;
    buffers.front().iov_len -= moved;
  }
  submit(request);
}

void VirtioBlk::completed(const IoCompletion& completion) {
  Request& request = requests_[completion.id];
  IoOperation& operation = request.operation;
  if (completion.result < 0) {
    failed(request, static_cast<int>(-completion.result));
    return;
  }
  const bool transfer =
      operation.kind == IoOperation::Kind::kRead || operation.kind == IoOperation::Kind::kWrite;
  if (transfer) {
    const auto moved = static_cast<std::uint64_t>(completion.result);
    if (moved == 0) {  // the image was truncated under us
      failed(request, EIO);
      return;
    }
    if (request.bounce && request.data_in) {
      scatter(request.buffers, request.bounce.get(), moved);
    }
    request.done += moved;
    (request.data_in ? read_bytes_ : written_bytes_).fetch_add(moved, std::memory_order_relaxed);
    if (request.done < operation.length) {
      operation.offset += moved;
      submit_rest(request, moved);
      return;
    }
  }
  if (std::exchange(request.sync_after, false)) {
    operation.kind = IoOperation::Kind::kSync;
    submit(request);
    return;
  }
  finish(request, kOk);
}

void VirtioBlk::failed(Request& request, int error) {
  if ((error == EINTR || error == EAGAIN) && ++request.retries < kMaxRetries) {
    submit(request);
  } else if (error == EOPNOTSUPP && request.may_emulate) {
    request.may_emulate = false;
    request.emulated = true;
    request.operation.kind = IoOperation::Kind::kWrite;
    submit_rest(request, 0);
  } else {
    answer_error(request, error);
  }
}

/// What the host does not support is no error of its.
void VirtioBlk::answer_error(Request& request, int error) {
  if (error == EOPNOTSUPP) return finish(request, kUnsupported);
  last_error_ = error;
  ++errors_;
  finish(request, kIoError);
}

void VirtioBlk::finish(Request& request, std::uint8_t status) {
  // 2.7.8.2: as many bytes as were surely written from the start of the chain on.
  const std::uint64_t data = request.data_in ? request.done : 0;
  const std::uint64_t room = total(request.chain.writable, bytes_of_writable) - 1;
  finish(request, status, data == room ? data + 1 : data);
}

void VirtioBlk::finish(Request& request, std::uint8_t status, std::uint64_t written) {
  request.chain.writable.back().bytes().back() = std::byte{status};
  request.chain.writable
      .clear();  // everything landed: this marks it dirty, before the driver is told
  request.bounce.reset();
  free_.push_back(id_of(request));
  if (broken_) return;
  if (!port_.queue->push(request.chain.head, static_cast<std::uint32_t>(written))) break_device();
  pushed_ = true;
}

}  // namespace godwit::devices
