// Who we are to other nodes, and whom we believe: TLS 1.3 with certificates of one CA on both ends.
// A TlsContext is made once, at start; after that any thread may use it.
#pragma once

#include <memory>
#include <string>

namespace godwit::node {

class TlsModule;

/// PEM files.
struct TlsFiles {
  std::string ca;           // certificates of whoever signs the nodes' and users' certificates
  std::string certificate;  // ours, then any that lead from it to the CA
  std::string key;          // of the certificate, without a passphrase
};

class TlsContext {
 public:
  /// Throws std::runtime_error with one line that names the file at fault.
  explicit TlsContext(const TlsFiles& files);
  ~TlsContext();
  TlsContext(const TlsContext&) = delete;
  TlsContext& operator=(const TlsContext&) = delete;

  const TlsModule& module() const { return *module_; }

 private:
  std::unique_ptr<TlsModule> module_;
};

}  // namespace godwit::node
