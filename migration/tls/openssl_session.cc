#include "migration/tls/openssl_session.h"

#include <fmt/format.h>
#include <sys/socket.h>

#include <new>
#include <utility>

namespace godwit::tls {

namespace {

// OpenSSL's own socket BIO raises SIGPIPE when the peer has gone. This one does not.
int socket_of(BIO* bio) { return *static_cast<const int*>(::BIO_get_data(bio)); }

int bio_result(BIO* bio, ssize_t bytes, int retry) {
  ::BIO_clear_retry_flags(bio);
  if (bytes < 0 && (errno == EAGAIN || errno == EINTR)) {
    ::BIO_set_flags(bio, retry | BIO_FLAGS_SHOULD_RETRY);
  }
  return static_cast<int>(bytes);
}

int bio_read(BIO* bio, char* to, int size) {
  return bio_result(bio, ::recv(socket_of(bio), to, static_cast<std::size_t>(size), MSG_DONTWAIT),
                    BIO_FLAGS_READ);
}

int bio_write(BIO* bio, const char* from, int size) {
  const auto bytes =
      ::send(socket_of(bio), from, static_cast<std::size_t>(size), MSG_DONTWAIT | MSG_NOSIGNAL);
  return bio_result(bio, bytes, BIO_FLAGS_WRITE);
}

long bio_control(BIO*, int command, long, void*) { return command == BIO_CTRL_FLUSH ? 1 : 0; }

BIO* make_bio(int* socket) {
  static BIO_METHOD* const method = [] {
    BIO_METHOD* const made = ::BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "godwit");
    ::BIO_meth_set_read(made, bio_read);
    ::BIO_meth_set_write(made, bio_write);
    ::BIO_meth_set_ctrl(made, bio_control);
    return made;
  }();
  BIO* const bio = ::BIO_new(method);
  ::BIO_set_data(bio, socket);
  ::BIO_set_init(bio, 1);
  return bio;
}

/// Why the peer refuses our certificate; null for alerts that say something else.
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
      return "it is not for this end of TLS";
    case SSL_AD_ACCESS_DENIED:
      return "it may not";
    default:
      return nullptr;
  }
}

}  // namespace

Error alert_error(int alert, const std::string& who) {
  if (const char* const why = refusal(alert)) {
    return {Error::Kind::kCertificate, fmt::format("{} refuses our certificate: {}", who, why)};
  }
  return {Error::Kind::kBroken, fmt::format("{} ends TLS with the alert \"{}\"", who,
                                            ::SSL_alert_desc_string_long(alert))};
}

Session::Session(SSL_CTX* context, int socket, std::string who)
    : socket_(std::make_unique<int>(socket)), ssl_(::SSL_new(context)), who_(std::move(who)) {
  if (ssl_ == nullptr) throw std::bad_alloc();
  BIO* const bio = make_bio(socket_.get());
  ::SSL_set_bio(ssl_.get(), bio, bio);
}

Session::Result Session::meaning_of(int result) const {
  const int saved_errno = errno;
  switch (::SSL_get_error(ssl_.get(), result)) {
    case SSL_ERROR_WANT_READ:
      return Result::kWantRead;
    case SSL_ERROR_WANT_WRITE:
      return Result::kWantWrite;
    case SSL_ERROR_ZERO_RETURN:
      return Result::kFarewell;
    case SSL_ERROR_SYSCALL:
      errno = saved_errno != 0 ? saved_errno : ECONNRESET;
      return Result::kFailed;
    default:
      explain();
      errno = ECONNRESET;
      return Result::kFailed;
  }
}

/// Throws what OpenSSL's last error means; returns if the connection has just ended.
void Session::explain() const {
  using Kind = Error::Kind;
  const unsigned long code = ::ERR_peek_error();
  const int reason = ERR_GET_REASON(code);
  const char* const words = ::ERR_reason_error_string(code);
  ::ERR_clear_error();
  if (ERR_GET_LIB(code) != ERR_LIB_SSL || reason == SSL_R_UNEXPECTED_EOF_WHILE_READING) return;
  switch (reason) {
    case SSL_R_CERTIFICATE_VERIFY_FAILED:
      throw Error(Kind::kCertificate,
                  fmt::format("the certificate of {} is refused: {}", who_,
                              ::X509_verify_cert_error_string(::SSL_get_verify_result(ssl()))));
    case SSL_R_PEER_DID_NOT_RETURN_A_CERTIFICATE:
      throw Error(Kind::kCertificate, fmt::format("{} shows no certificate", who_));
    case SSL_R_WRONG_VERSION_NUMBER:
    case SSL_R_HTTP_REQUEST:
      if (established_) break;
      throw Error(Kind::kPlain, fmt::format("{} does not speak TLS", who_));
    default:
      break;
  }
  if (reason > SSL_AD_REASON_OFFSET) throw alert_error(reason - SSL_AD_REASON_OFFSET, who_);
  throw Error(Kind::kBroken,
              fmt::format("TLS with {} fails: {}", who_, words == nullptr ? "?" : words));
}

}  // namespace godwit::tls
