#include "node/daemon/tls.h"

#include <dlfcn.h>
#include <fmt/format.h>

#include <filesystem>
#include <stdexcept>
#include <string>

#include "node/daemon/tls_module.h"

namespace godwit::node {

namespace {

/// Beside the binary, or where a package puts it. Not by run path: sanitizers' dlopen() ignores it.
/// Never unloaded.
TlsEntry load() {
  const auto folder = std::filesystem::read_symlink("/proc/self/exe").parent_path();
  std::string why;
  for (const char* place : {"godwit_tls.so", "../lib/godwit/godwit_tls.so"}) {
    const auto path = folder / place;
    if (!std::filesystem::exists(path)) continue;
    void* const module = ::dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    void* const entry = module == nullptr ? nullptr : ::dlsym(module, "godwit_tls");
    if (entry == nullptr) throw std::runtime_error(fmt::format("TLS: {}", ::dlerror()));
    return reinterpret_cast<TlsEntry>(entry);
  }
  throw std::runtime_error(fmt::format("TLS needs godwit_tls.so in {} or {}", folder.string(),
                                       (folder.parent_path() / "lib/godwit").string()));
}

}  // namespace

TlsContext::TlsContext(const TlsFiles& files) : module_(load()(GODWIT_VERSION, files)) {}

TlsContext::~TlsContext() = default;

}  // namespace godwit::node
