#include "node/tls_options.h"

#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>

namespace godwit::node {

namespace {

std::string file_of(const Options& options, const char* name) {
  if (!options.has(name)) {
    throw UsageError("--tls-cert, --tls-key and --tls-ca: all three of them, or none");
  }
  std::string path = std::filesystem::absolute(options.text(name)).string();
  if (::access(path.c_str(), R_OK) != 0) {
    throw UsageError(fmt::format("--{}: {}: {}", name, path, std::strerror(errno)));
  }
  return path;
}

}  // namespace

void add_tls_options(Options& options, const std::string& what) {
  const std::string certificate = "by TLS: " + what + "; the certificate (PEM) of this host";
  options.value("tls-cert", "FILE", certificate.c_str())
      .value("tls-key", "FILE", "its key, without a passphrase")
      .value("tls-ca", "FILE", "certificates of whoever signs those of the hosts");
}

std::optional<tls::Files> tls_files(const Options& options) {
  if (!options.has("tls-cert") && !options.has("tls-key") && !options.has("tls-ca")) return {};
  return tls::Files{file_of(options, "tls-ca"), file_of(options, "tls-cert"),
                    file_of(options, "tls-key")};
}

std::vector<std::string> tls_words(const tls::Files& files) {
  return {"--tls-cert", files.certificate, "--tls-key", files.key, "--tls-ca", files.ca};
}

}  // namespace godwit::node
