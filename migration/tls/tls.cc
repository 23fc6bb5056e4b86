#include "migration/tls/tls.h"

#include <dlfcn.h>
#include <fmt/format.h>

#include <filesystem>
#include <stdexcept>
#include <string>

#include "migration/tls/module.h"

namespace godwit::tls {

namespace {

/// Beside the binary, or where a package puts it. Not by run path: sanitizers' dlopen() ignores it.
/// Never unloaded.
void* load() {
  const auto folder = std::filesystem::read_symlink("/proc/self/exe").parent_path();
  for (const char* place : {"godwit_tls.so", "../lib/godwit/godwit_tls.so"}) {
    const auto path = folder / place;
    if (!std::filesystem::exists(path)) continue;
    void* const module = ::dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (module == nullptr) throw std::runtime_error(fmt::format("TLS: {}", ::dlerror()));
    return module;
  }
  throw std::runtime_error(fmt::format("TLS needs godwit_tls.so in {} or {}", folder.string(),
                                       (folder.parent_path() / "lib/godwit").string()));
}

}  // namespace

void* Context::function(const char* name) {
  void* const function = ::dlsym(load(), name);
  if (function == nullptr) throw std::runtime_error(fmt::format("TLS: {}", ::dlerror()));
  return function;
}

Context::Context(const Files& files)
    : module_(reinterpret_cast<Entry>(function("godwit_tls"))(GODWIT_VERSION, files)) {}

Context::~Context() = default;

}  // namespace godwit::tls
