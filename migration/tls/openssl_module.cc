#include <fmt/format.h>
#include <openssl/ssl.h>

#include <stdexcept>
#include <string_view>

#include "migration/tls/module.h"
#include "migration/tls/openssl_context.h"
#include "migration/tls/openssl_handshake.h"

namespace godwit::tls {

namespace {

class OpenSslModule : public Module {
 public:
  explicit OpenSslModule(const Files& files) : contexts_(files) {
    TrafficSecrets::prepare(contexts_.client());
    TrafficSecrets::prepare(contexts_.server());
  }

  OwnCertificate own_certificate() const override {
    const X509* const certificate = ::SSL_CTX_get0_certificate(contexts_.server());
    return {names_of(certificate), valid_until(certificate)};
  }

  std::unique_ptr<Handshake> connect(int socket, const std::string& name, const std::string& who,
                                     Records records) const override {
    return std::make_unique<OpenSslHandshake>(contexts_.client(), OpenSslHandshake::Side::kClient,
                                              socket, name, who, records);
  }

  std::unique_ptr<Handshake> accept(int socket, const std::string& who,
                                    Records records) const override {
    return std::make_unique<OpenSslHandshake>(contexts_.server(), OpenSslHandshake::Side::kServer,
                                              socket, "", who, records);
  }

  SSL_CTX* server() const override { return contexts_.server(); }

 private:
  OpenSslContexts contexts_;
};

}  // namespace

}  // namespace godwit::tls

extern "C" __attribute__((visibility("default"))) godwit::tls::Module* godwit_tls(
    const char* version, const godwit::tls::Files& files) {
  if (std::string_view(version) != GODWIT_VERSION) {
    throw std::runtime_error(
        fmt::format("godwit_tls.so is of version {}, not {}", GODWIT_VERSION, version));
  }
  return new godwit::tls::OpenSslModule(files);
}
