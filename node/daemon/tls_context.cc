#include "node/daemon/tls_context.h"

#include <fmt/format.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <ctime>
#include <fstream>
#include <stdexcept>

namespace godwit::node {

namespace {

/// OpenSSL's own words for what happened last on this thread; empties its queue.
std::string openssl_error() {
  const unsigned long code = ::ERR_peek_last_error();
  const char* const reason = ::ERR_reason_error_string(code);
  ::ERR_clear_error();
  return reason == nullptr ? "unknown error" : reason;
}

[[noreturn]] void fail(const char* what, const std::string& path, const std::string& why) {
  throw std::runtime_error(fmt::format("{} {}: {}", what, path, why));
}

/// OpenSSL's words for a file that is not there are none.
void expect_readable(const char* what, const std::string& path) {
  if (path.empty()) throw std::runtime_error(fmt::format("no {} file is named", what));
  errno = 0;
  std::ifstream file(path);
  if (!file || file.peek() == std::ifstream::traits_type::eof()) {
    fail(what, path, errno != 0 ? std::strerror(errno) : "the file is empty");
  }
}

/// A daemon has nobody to ask.
int no_passphrase(char*, int, int, void*) { return 0; }

std::unique_ptr<SSL_CTX, FreeSsl> make_context(const SSL_METHOD* method, const TlsFiles& files) {
  ::ERR_clear_error();
  std::unique_ptr<SSL_CTX, FreeSsl> context(::SSL_CTX_new(method));
  SSL_CTX* const raw = context.get();
  if (raw == nullptr || ::SSL_CTX_set_min_proto_version(raw, TLS1_3_VERSION) != 1 ||
      ::SSL_CTX_set_max_proto_version(raw, TLS1_3_VERSION) != 1) {
    throw std::runtime_error("TLS: " + openssl_error());
  }
  // Every connection proves who it is: nothing is resumed.
  ::SSL_CTX_set_session_cache_mode(raw, SSL_SESS_CACHE_OFF);
  ::SSL_CTX_set_num_tickets(raw, 0);
  ::SSL_CTX_set_mode(raw, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER |
                              SSL_MODE_RELEASE_BUFFERS);
  ::SSL_CTX_set_verify(raw, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, nullptr);
  ::SSL_CTX_set_default_passwd_cb(raw, no_passphrase);

  if (::SSL_CTX_load_verify_file(raw, files.ca.c_str()) != 1) {
    ::ERR_clear_error();
    fail("CA", files.ca, "holds no certificate (PEM)");
  }
  if (::SSL_CTX_use_certificate_chain_file(raw, files.certificate.c_str()) != 1) {
    fail("certificate", files.certificate, "is no certificate (PEM): " + openssl_error());
  }
  if (::SSL_CTX_use_PrivateKey_file(raw, files.key.c_str(), SSL_FILETYPE_PEM) != 1) {
    const unsigned long code = ::ERR_peek_last_error();
    if (ERR_GET_LIB(code) == ERR_LIB_X509 && (ERR_GET_REASON(code) == X509_R_KEY_VALUES_MISMATCH ||
                                              ERR_GET_REASON(code) == X509_R_KEY_TYPE_MISMATCH)) {
      fail("key", files.key, "is not the key of " + files.certificate);
    }
    fail("key", files.key, "is no private key (PEM, no passphrase): " + openssl_error());
  }
  return context;
}

}  // namespace

void FreeSsl::operator()(SSL_CTX* context) const { ::SSL_CTX_free(context); }
void FreeSsl::operator()(SSL* session) const { ::SSL_free(session); }
void FreeSsl::operator()(X509* certificate) const { ::X509_free(certificate); }

TlsContexts::TlsContexts(const TlsFiles& files) {
  expect_readable("CA", files.ca);
  expect_readable("certificate", files.certificate);
  expect_readable("key", files.key);
  server_ = make_context(::TLS_server_method(), files);
  client_ = make_context(::TLS_client_method(), files);
}

CertificatePtr peer_certificate(const SSL* session) {
  return CertificatePtr(::SSL_get1_peer_certificate(session));
}

std::string common_name(const X509* certificate) {
  const X509_NAME* const subject = ::X509_get_subject_name(certificate);
  const int index = ::X509_NAME_get_index_by_NID(subject, NID_commonName, -1);
  if (index < 0) return {};
  const ASN1_STRING* const text = ::X509_NAME_ENTRY_get_data(::X509_NAME_get_entry(subject, index));
  unsigned char* utf8 = nullptr;
  const int size = ::ASN1_STRING_to_UTF8(&utf8, text);
  if (size < 0) return {};
  std::string result(reinterpret_cast<const char*>(utf8), static_cast<std::size_t>(size));
  ::OPENSSL_free(utf8);
  return result;
}

std::vector<std::string> names_of(const X509* certificate) {
  std::vector<std::string> found{common_name(certificate)};
  auto* const names = static_cast<GENERAL_NAMES*>(
      ::X509_get_ext_d2i(certificate, NID_subject_alt_name, nullptr, nullptr));
  for (int i = 0; i < sk_GENERAL_NAME_num(names); ++i) {
    const GENERAL_NAME* const entry = sk_GENERAL_NAME_value(names, i);
    if (entry->type != GEN_DNS) continue;
    const ASN1_STRING* const text = entry->d.dNSName;
    found.emplace_back(reinterpret_cast<const char*>(::ASN1_STRING_get0_data(text)),
                       static_cast<std::size_t>(::ASN1_STRING_length(text)));
  }
  ::GENERAL_NAMES_free(names);
  return found;
}

std::int64_t valid_until(const X509* certificate) {
  std::tm time{};
  return ::ASN1_TIME_to_tm(::X509_get0_notAfter(certificate), &time) == 1 ? ::timegm(&time) : 0;
}

bool has_name(const X509* certificate, const std::string& name) {
  const auto names = names_of(certificate);
  return !name.empty() && std::find(names.begin(), names.end(), name) != names.end();
}

}  // namespace godwit::node
