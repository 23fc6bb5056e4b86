// Certificate authorities and certificates for tests, made on the spot, as PEM files.
#pragma once

#include <openssl/types.h>

#include <string>

#include "migration/tls/tls.h"

namespace godwit::tls {

struct CertificateWish {
  std::string name;           // common name
  std::string also = {};      // alternative names: "DNS:b.example,IP:10.0.0.2"
  long valid_from_s = -3600;  // from now
  long valid_to_s = 3600;
};

class TestCa {
 public:
  /// Files go into `folder` and stay there.
  TestCa(std::string folder, std::string name);
  ~TestCa();
  TestCa(const TestCa&) = delete;
  TestCa& operator=(const TestCa&) = delete;

  /// A new certificate of this CA, with its key; `file` names the files.
  Files make(const std::string& file, const CertificateWish& wish);
  std::string certificate_file() const { return folder_ + name_ + ".crt"; }

 private:
  std::string folder_;
  std::string name_;
  EVP_PKEY* key_;
  X509* certificate_;
};

}  // namespace godwit::tls
