#include "migration/verbs.h"

#include <fmt/format.h>
#include <sys/resource.h>

#include <cstring>
#include <fstream>
#include <string>

namespace godwit::migration {

namespace {

bool may_pin_without_limit() {
  std::ifstream status("/proc/self/status");
  constexpr unsigned kCapIpcLock = 14;  // capabilities(7)
  for (std::string line; std::getline(status, line);) {
    if (line.rfind("CapEff:", 0) == 0) {
      return (std::stoull(line.substr(7), nullptr, 16) >> kCapIpcLock & 1) != 0;
    }
  }
  return false;
}

}  // namespace

void fail_verb(const char* verb, int error_number) {
  throw RdmaError(fmt::format("{}: {}", verb, std::strerror(error_number)));
}

void load_rdma_drivers() noexcept {
  int count = 0;
  if (ibv_device** devices = ibv_get_device_list(&count)) ibv_free_device_list(devices);
}

void require_memlock(std::uint64_t bytes) {
  rlimit limit{};
  if (::getrlimit(RLIMIT_MEMLOCK, &limit) != 0) fail_verb("getrlimit");
  if (limit.rlim_cur == RLIM_INFINITY || limit.rlim_cur >= bytes || may_pin_without_limit()) return;
  throw RdmaError(
      fmt::format("RDMA pins guest RAM: this process may lock {} KiB and needs {} KiB: raise it "
                  "with `ulimit -l unlimited` before "
                  "starting godwit, LimitMEMLOCK=infinity in its systemd unit, or memlock in "
                  "/etc/security/limits.conf",
                  limit.rlim_cur / 1024, bytes / 1024));
}

}  // namespace godwit::migration
