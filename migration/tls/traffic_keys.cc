#include "migration/tls/traffic_keys.h"

#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/kdf.h>
#include <openssl/params.h>
#include <openssl/ssl.h>

#include <charconv>
#include <cstdint>
#include <memory>
#include <string_view>

namespace godwit::tls {

namespace {

constexpr std::uint16_t kAes128GcmSha256 = 0x1301;  // RFC 8446, B.4
constexpr std::uint16_t kAes256GcmSha384 = 0x1302;

struct FreeKdf {
  void operator()(EVP_KDF* kdf) const { ::EVP_KDF_free(kdf); }
  void operator()(EVP_KDF_CTX* context) const { ::EVP_KDF_CTX_free(context); }
};

OSSL_PARAM text(const char* name, std::string_view value) {
  return ::OSSL_PARAM_construct_octet_string(name, const_cast<char*>(value.data()), value.size());
}

/// HKDF-Expand-Label without a context (RFC 8446, 7.1) into `into`.
bool expand(const char* digest, const Secret& secret, std::string_view label, Secret& into) {
  const std::unique_ptr<EVP_KDF, FreeKdf> kdf(
      ::EVP_KDF_fetch(nullptr, OSSL_KDF_NAME_TLS1_3_KDF, nullptr));
  const std::unique_ptr<EVP_KDF_CTX, FreeKdf> context(::EVP_KDF_CTX_new(kdf.get()));
  int mode = EVP_KDF_HKDF_MODE_EXPAND_ONLY;
  const std::array<OSSL_PARAM, 6> parameters{
      ::OSSL_PARAM_construct_int(OSSL_KDF_PARAM_MODE, &mode),
      ::OSSL_PARAM_construct_utf8_string(OSSL_KDF_PARAM_DIGEST, const_cast<char*>(digest), 0),
      ::OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_KEY,
                                          const_cast<unsigned char*>(secret.data()), secret.size()),
      text(OSSL_KDF_PARAM_PREFIX, "tls13 "),
      text(OSSL_KDF_PARAM_LABEL, label),
      ::OSSL_PARAM_construct_end()};
  return context != nullptr &&
         ::EVP_KDF_derive(context.get(), into.data(), into.size(), parameters.data()) == 1;
}

}  // namespace

Secret::~Secret() { ::OPENSSL_cleanse(bytes_.data(), bytes_.size()); }

int TrafficSecrets::slot() {
  static const int index = ::SSL_get_ex_new_index(0, nullptr, nullptr, nullptr, nullptr);
  return index;
}

void TrafficSecrets::prepare(SSL_CTX* context) { ::SSL_CTX_set_keylog_callback(context, hear); }

void TrafficSecrets::listen(SSL* ssl) { ::SSL_set_ex_data(ssl, slot(), this); }

void TrafficSecrets::ignore(SSL* ssl) { ::SSL_set_ex_data(ssl, slot(), nullptr); }

// "LABEL RANDOM SECRET", the last two in hexadecimal: the lines of SSLKEYLOGFILE.
void TrafficSecrets::hear(const SSL* ssl, const char* line) {
  auto* const listener = static_cast<TrafficSecrets*>(::SSL_get_ex_data(ssl, slot()));
  if (listener == nullptr) return;
  const std::string_view text = line;
  const std::string_view label = text.substr(0, text.find(' '));
  const std::string_view hex = text.substr(text.rfind(' ') + 1);
  const bool client = label == "CLIENT_TRAFFIC_SECRET_0";
  if (!client && label != "SERVER_TRAFFIC_SECRET_0") return;
  Secret secret(hex.size() / 2);
  for (std::size_t i = 0; i < secret.size(); ++i) {
    const char* const digits = hex.data() + 2 * i;
    std::from_chars(digits, digits + 2, secret.data()[i], 16);
  }
  (client ? listener->client_ : listener->server_).swap(secret);
}

std::optional<TrafficKey> TrafficSecrets::key(const SSL* ssl, const Secret& secret) {
  const SSL_CIPHER* const cipher = ::SSL_get_current_cipher(ssl);
  const std::uint16_t suite = ::SSL_CIPHER_get_protocol_id(cipher);
  if (suite != kAes128GcmSha256 && suite != kAes256GcmSha384) return {};
  const char* const digest = ::EVP_MD_get0_name(::SSL_CIPHER_get_handshake_digest(cipher));
  TrafficKey key{Secret(suite == kAes128GcmSha256 ? 16 : 32), Secret(TrafficKey::kIvBytes)};
  if (!expand(digest, secret, "key", key.key) || !expand(digest, secret, "iv", key.iv)) return {};
  return key;
}

}  // namespace godwit::tls
