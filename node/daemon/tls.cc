#include "node/daemon/tls.h"

#include <dlfcn.h>
#include <fmt/format.h>

#include <stdexcept>

#include "node/daemon/tls_module.h"

namespace godwit::node {

TlsContext::TlsContext(const TlsFiles& files) {
  // Found by the run path of the binary: beside it, or in ../lib/godwit. Never unloaded.
  void* const module = ::dlopen("godwit_tls.so", RTLD_NOW | RTLD_LOCAL);
  void* const entry = module == nullptr ? nullptr : ::dlsym(module, "godwit_tls");
  if (entry == nullptr) {
    throw std::runtime_error(fmt::format(
        "TLS needs godwit_tls.so beside the godwit binary, and OpenSSL 3: {}", ::dlerror()));
  }
  module_.reset(reinterpret_cast<TlsEntry>(entry)(GODWIT_VERSION, files));
}

TlsContext::~TlsContext() = default;

}  // namespace godwit::node
