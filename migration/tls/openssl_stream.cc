#include "migration/tls/openssl_stream.h"

#include <sys/uio.h>

#include <algorithm>
#include <cstring>
#include <utility>

namespace godwit::tls {

namespace {

/// As a system call has it; `farewell`: what comes after the peer's.
ssize_t bytes_or_errno(Session::Result result, std::size_t bytes, ssize_t farewell) {
  switch (result) {
    case Session::Result::kDone:
      return static_cast<ssize_t>(bytes);
    case Session::Result::kFarewell:
      errno = EPIPE;
      return farewell;
    case Session::Result::kFailed:
      return -1;
    default:
      errno = EAGAIN;
      return -1;
  }
}

}  // namespace

OpenSslStream::OpenSslStream(Session session) : session_(std::move(session)) {}

/// What goes next: out of the first part if that fills a record, else gathered from several. Each
/// call has as many bytes until they have been sent.
std::span<const std::byte> OpenSslStream::next_record(std::span<const iovec> parts) {
  const std::size_t first = std::min(parts[0].iov_len, gathered_.size());
  if (first == gathered_.size() || parts.size() == 1) {
    return {static_cast<const std::byte*>(parts[0].iov_base), first};
  }
  std::size_t size = 0;
  for (const iovec& part : parts) {
    const std::size_t some = std::min(part.iov_len, gathered_.size() - size);
    if (some > 0) std::memcpy(gathered_.data() + size, part.iov_base, some);
    size += some;
    if (size == gathered_.size()) break;
  }
  return std::span(gathered_).first(size);
}

ssize_t OpenSslStream::send(std::span<const iovec> parts) {
  const auto record = next_record(parts);
  if (record.empty()) return 0;
  std::size_t done = 0;
  const auto result = session_.run(
      [&](SSL* ssl) { return ::SSL_write_ex(ssl, record.data(), record.size(), &done); });
  return bytes_or_errno(result, done, -1);
}

ssize_t OpenSslStream::receive(std::span<const iovec> parts) {
  std::size_t done = 0;
  const auto result = session_.run(
      [&](SSL* ssl) { return ::SSL_read_ex(ssl, parts[0].iov_base, parts[0].iov_len, &done); });
  return bytes_or_errno(result, done, 0);
}

bool OpenSslStream::readable() {
  std::byte probe{};
  std::size_t done = 0;
  const auto result =
      session_.run([&](SSL* ssl) { return ::SSL_peek_ex(ssl, &probe, sizeof probe, &done); });
  return result != Session::Result::kWantRead && result != Session::Result::kWantWrite;
}

}  // namespace godwit::tls
