#include "node/daemon/tls_stream.h"

#include <fmt/format.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <boost/system/error_code.hpp>
#include <cerrno>
#include <climits>

namespace godwit::node {

namespace errc = boost::system::errc;
using boost::system::error_code;
using Kind = ClientError::Kind;

namespace {

// OpenSSL's own socket BIO raises SIGPIPE when the peer has gone. This one does not.
int fd_of(BIO* bio) { return static_cast<const sys::UniqueFd*>(::BIO_get_data(bio))->get(); }

int bio_result(BIO* bio, ssize_t bytes, int retry) {
  ::BIO_clear_retry_flags(bio);
  if (bytes < 0 && (errno == EAGAIN || errno == EINTR)) {
    ::BIO_set_flags(bio, retry | BIO_FLAGS_SHOULD_RETRY);
  }
  return static_cast<int>(bytes);
}

int bio_read(BIO* bio, char* to, int size) {
  return bio_result(bio, ::recv(fd_of(bio), to, static_cast<std::size_t>(size), MSG_DONTWAIT),
                    BIO_FLAGS_READ);
}

int bio_write(BIO* bio, const char* from, int size) {
  const auto bytes =
      ::send(fd_of(bio), from, static_cast<std::size_t>(size), MSG_DONTWAIT | MSG_NOSIGNAL);
  return bio_result(bio, bytes, BIO_FLAGS_WRITE);
}

long bio_control(BIO*, int command, long, void*) { return command == BIO_CTRL_FLUSH ? 1 : 0; }

BIO* make_bio(sys::UniqueFd& fd) {
  static BIO_METHOD* const method = [] {
    BIO_METHOD* const made = ::BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "godwit");
    ::BIO_meth_set_read(made, bio_read);
    ::BIO_meth_set_write(made, bio_write);
    ::BIO_meth_set_ctrl(made, bio_control);
    return made;
  }();
  BIO* const bio = ::BIO_new(method);
  ::BIO_set_data(bio, &fd);
  ::BIO_set_init(bio, 1);
  return bio;
}

/// Why the peer refuses our certificate, by its alert (RFC 8446, 6); null for other alerts.
const char* refusal(int alert) {
  switch (alert) {
    case SSL_AD_CERTIFICATE_EXPIRED:
      return "it has expired";
    case SSL_AD_UNKNOWN_CA:
      return "its CA did not sign it";
    case SSL_AD_CERTIFICATE_REQUIRED:
      return "it got none";
    case SSL_AD_CERTIFICATE_REVOKED:
      return "it was revoked";
    case SSL_AD_BAD_CERTIFICATE:
    case SSL_AD_CERTIFICATE_UNKNOWN:
      return "it is not valid";
    case SSL_AD_UNSUPPORTED_CERTIFICATE:
      return "it is not for TLS clients";
    case SSL_AD_ACCESS_DENIED:
      return "it may not";
    default:
      return nullptr;
  }
}

}  // namespace

TlsStream::TlsStream(sys::UniqueFd fd, SSL_CTX* context, const std::string& name,
                     const Deadline& deadline, const std::string& who)
    : fd_(std::move(fd)), ssl_(::SSL_new(context)), deadline_(deadline), who_(who) {
  if (ssl_ == nullptr) throw std::bad_alloc();
  BIO* const bio = make_bio(fd_);
  ::SSL_set_bio(ssl_.get(), bio, bio);
  error_code error;
  run(error, [this](std::size_t& done) {
    done = 1;
    return ::SSL_connect(ssl_.get());
  });
  if (error == errc::timed_out) {
    throw ClientError(
        fmt::format("{} does not finish the TLS handshake within {}", who_, deadline_.text()),
        Kind::kTimeout);
  }
  if (error) {
    throw ClientError(fmt::format("lost contact with {} in the TLS handshake", who_), Kind::kLost);
  }
  const CertificatePtr certificate = peer_certificate(ssl_.get());
  if (certificate == nullptr || (!name.empty() && !has_name(certificate.get(), name))) {
    throw ClientError(
        fmt::format("{} is refused: its certificate says \"{}\", not \"{}\"", who_,
                    certificate == nullptr ? "" : common_name(certificate.get()), name),
        Kind::kCertificate);
  }
}

template <typename Call>
std::size_t TlsStream::run(error_code& error, Call call) {
  error = {};
  for (;;) {
    ::ERR_clear_error();
    errno = 0;
    std::size_t done = 0;
    const int result = call(done);
    if (result > 0) return done;
    const int saved_errno = errno;
    switch (::SSL_get_error(ssl_.get(), result)) {
      case SSL_ERROR_WANT_READ:
        if (wait_for(fd_, POLLIN, deadline_)) continue;
        error = make_error_code(errc::timed_out);
        return 0;
      case SSL_ERROR_WANT_WRITE:
        if (wait_for(fd_, POLLOUT, deadline_)) continue;
        error = make_error_code(errc::timed_out);
        return 0;
      case SSL_ERROR_ZERO_RETURN:
        return 0;
      case SSL_ERROR_SYSCALL:
        error = {saved_errno != 0 ? saved_errno : ECONNRESET, boost::system::generic_category()};
        return 0;
      default:
        explain();
        error = make_error_code(errc::connection_reset);
        return 0;
    }
  }
}

void TlsStream::explain() const {
  const unsigned long code = ::ERR_peek_error();
  const int reason = ERR_GET_REASON(code);
  const char* const words = ::ERR_reason_error_string(code);
  ::ERR_clear_error();
  if (ERR_GET_LIB(code) != ERR_LIB_SSL || reason == SSL_R_UNEXPECTED_EOF_WHILE_READING) return;
  if (reason == SSL_R_CERTIFICATE_VERIFY_FAILED) {
    throw ClientError(
        fmt::format("the certificate of {} is refused: {}", who_,
                    ::X509_verify_cert_error_string(::SSL_get_verify_result(ssl_.get()))),
        Kind::kCertificate);
  }
  if (reason == SSL_R_WRONG_VERSION_NUMBER || reason == SSL_R_HTTP_REQUEST) {
    throw ClientError(fmt::format("{} does not speak TLS", who_), Kind::kNotOurs);
  }
  if (reason > SSL_AD_REASON_OFFSET) {
    if (const char* const why = refusal(reason - SSL_AD_REASON_OFFSET)) {
      throw ClientError(fmt::format("{} refuses our certificate: {}", who_, why),
                        Kind::kCertificate);
    }
  }
  throw ClientError(fmt::format("TLS with {} fails: {}", who_, words == nullptr ? "?" : words),
                    Kind::kNotOurs);
}

std::size_t TlsStream::read_some(std::span<std::byte> to, error_code& error) {
  return run(error, [&](std::size_t& done) {
    return ::SSL_read_ex(ssl_.get(), to.data(), to.size(), &done);
  });
}

std::size_t TlsStream::write_some(std::span<const std::byte> from, error_code& error) {
  return run(error, [&](std::size_t& done) {
    return ::SSL_write_ex(ssl_.get(), from.data(), from.size(), &done);
  });
}

bool TlsStream::quiet() const {
  char byte = 0;
  return ::SSL_has_pending(ssl_.get()) == 0 &&
         ::recv(fd_.get(), &byte, 1, MSG_DONTWAIT | MSG_PEEK) < 0 && errno == EAGAIN;
}

}  // namespace godwit::node
