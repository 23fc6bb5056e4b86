// TLS 1.3 with certificates of one CA on both ends. OpenSSL costs a process 1 MiB and more before
// it is used, and most guests never use it: so it lives in a module, godwit_tls.so, that is loaded
// by the first Context.
#pragma once

#include <memory>
#include <string>

namespace godwit::tls {

class Module;

/// PEM files.
struct Files {
  std::string ca;           // certificates of whoever signs the nodes' and users' certificates
  std::string certificate;  // ours, then any that lead from it to the CA
  std::string key;          // of the certificate, without a passphrase
};

/// Who we are, and whom we believe. Made once; after that any thread may use it.
class Context {
 public:
  /// Throws std::runtime_error with one line that names the file at fault.
  explicit Context(const Files& files);
  ~Context();
  Context(const Context&) = delete;
  Context& operator=(const Context&) = delete;

  const Module& module() const { return *module_; }
  /// A function that godwit_tls.so exports.
  static void* function(const char* name);

 private:
  std::unique_ptr<Module> module_;
};

}  // namespace godwit::tls
