#include "tests/migration/tls/certificates.h"

#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509.h>
#include <openssl/x509v3.h>

#include <cstdio>
#include <memory>
#include <stdexcept>
#include <utility>

namespace godwit::tls {

namespace {

void check(bool good, const char* what) {
  if (!good) throw std::runtime_error(std::string("test certificate: ") + what);
}

void add_extension(X509* to, X509* issuer, int nid, const std::string& value) {
  X509V3_CTX context{};
  X509V3_set_ctx(&context, issuer, to, nullptr, nullptr, 0);
  X509_EXTENSION* const extension = X509V3_EXT_conf_nid(nullptr, &context, nid, value.c_str());
  check(extension != nullptr, value.c_str());
  X509_add_ext(to, extension, -1);
  X509_EXTENSION_free(extension);
}

X509* make_certificate(const CertificateWish& wish, EVP_PKEY* key, X509* issuer,
                       EVP_PKEY* issuer_key) {
  static long serial = 1;
  X509* const made = X509_new();
  X509_set_version(made, X509_VERSION_3);
  ASN1_INTEGER_set(X509_get_serialNumber(made), ++serial);
  X509_gmtime_adj(X509_getm_notBefore(made), wish.valid_from_s);
  X509_gmtime_adj(X509_getm_notAfter(made), wish.valid_to_s);
  X509_NAME* const subject = X509_get_subject_name(made);
  X509_NAME_add_entry_by_txt(subject, "CN", MBSTRING_UTF8,
                             reinterpret_cast<const unsigned char*>(wish.name.data()),
                             static_cast<int>(wish.name.size()), -1, 0);
  const bool is_ca = issuer == nullptr;
  X509* const signer = is_ca ? made : issuer;
  X509_set_issuer_name(made, X509_get_subject_name(signer));
  X509_set_pubkey(made, key);
  add_extension(made, signer, NID_basic_constraints, is_ca ? "critical,CA:TRUE" : "CA:FALSE");
  if (!wish.also.empty()) add_extension(made, signer, NID_subject_alt_name, wish.also);
  check(X509_sign(made, issuer_key, EVP_sha256()) > 0, "X509_sign");
  return made;
}

template <typename Write>
void write_file(const std::string& path, Write write) {
  std::FILE* const file = std::fopen(path.c_str(), "w");
  check(file != nullptr, path.c_str());
  check(write(file) == 1, path.c_str());
  std::fclose(file);
}

}  // namespace

TestCa::TestCa(std::string folder, std::string name)
    : folder_(std::move(folder)), name_(std::move(name)), key_(EVP_EC_gen("P-256")) {
  check(key_ != nullptr, "EVP_EC_gen");
  certificate_ = make_certificate({name_}, key_, nullptr, key_);
  write_file(certificate_file(),
             [this](std::FILE* file) { return PEM_write_X509(file, certificate_); });
}

TestCa::~TestCa() {
  X509_free(certificate_);
  EVP_PKEY_free(key_);
}

Files TestCa::make(const std::string& file, const CertificateWish& wish) {
  Files files{certificate_file(), folder_ + file + ".crt", folder_ + file + ".key"};
  EVP_PKEY* const key = EVP_EC_gen("P-256");
  X509* const made = make_certificate(wish, key, certificate_, key_);
  write_file(files.certificate, [&](std::FILE* out) { return PEM_write_X509(out, made); });
  write_file(files.key, [&](std::FILE* out) {
    return PEM_write_PrivateKey(out, key, nullptr, nullptr, 0, nullptr, nullptr);
  });
  X509_free(made);
  EVP_PKEY_free(key);
  return files;
}

}  // namespace godwit::tls
