#include "node/daemon/tls_stream.h"

#include <fmt/format.h>
#include <poll.h>
#include <sys/uio.h>

#include <boost/system/error_code.hpp>
#include <cerrno>

#include "migration/tls/module.h"

namespace godwit::node {

namespace errc = boost::system::errc;
using boost::system::error_code;
using Kind = ClientError::Kind;

namespace {

Kind kind_of(tls::Error::Kind kind) {
  switch (kind) {
    case tls::Error::Kind::kCertificate:
    case tls::Error::Kind::kName:
      return Kind::kCertificate;
    case tls::Error::Kind::kLost:
      return Kind::kLost;
    case tls::Error::Kind::kPlain:
    case tls::Error::Kind::kBroken:
      break;
  }
  return Kind::kNotOurs;
}

template <typename Call>
auto translated(Call call) {
  try {
    return call();
  } catch (const tls::Error& error) {
    throw ClientError(error.what(), kind_of(error.kind()));
  }
}

}  // namespace

TlsStream::TlsStream(sys::UniqueFd fd, const tls::Context& context, const std::string& name,
                     const Deadline& deadline, const std::string& who)
    : fd_(std::move(fd)), deadline_(deadline) {
  stream_ = translated([&] {
    const auto handshake = context.module().connect(fd_.get(), name, who, tls::Records::kByUs);
    while (const short events = handshake->step()) {
      if (wait_for(fd_, events, deadline_)) continue;
      throw ClientError(
          fmt::format("{} does not finish the TLS handshake within {}", who, deadline_.text()),
          Kind::kTimeout);
    }
    return handshake->finish();
  });
}

template <typename Call>
std::size_t TlsStream::transfer(short events, error_code& error, Call call) {
  error = {};
  for (;;) {
    const ssize_t bytes = translated(call);
    if (bytes >= 0) return static_cast<std::size_t>(bytes);
    if (errno != EAGAIN) {
      error = {errno, boost::system::generic_category()};
      return 0;
    }
    if (!wait_for(fd_, events, deadline_)) {
      error = make_error_code(errc::timed_out);
      return 0;
    }
  }
}

std::size_t TlsStream::read_some(std::span<std::byte> to, error_code& error) {
  const iovec part{to.data(), to.size()};
  return transfer(POLLIN, error, [&] { return stream_->receive({&part, 1}); });
}

std::size_t TlsStream::write_some(std::span<const std::byte> from, error_code& error) {
  const iovec part{const_cast<std::byte*>(from.data()), from.size()};
  return transfer(POLLOUT, error, [&] { return stream_->send({&part, 1}); });
}

bool TlsStream::quiet() const {
  try {
    return !stream_->readable();
  } catch (const tls::Error&) {
    return false;
  }
}

}  // namespace godwit::node
