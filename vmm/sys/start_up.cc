#include "vmm/sys/start_up.h"

#include <link.h>
#include <sys/mman.h>

#include <cstddef>
#include <cstdint>

namespace godwit::sys {

namespace {

constexpr std::uintptr_t kPage = 4096;

int forget_segments(dl_phdr_info* info, std::size_t /*size*/, void* /*unused*/) {
  for (std::size_t i = 0; i < info->dlpi_phnum; ++i) {
    const auto& segment = info->dlpi_phdr[i];
    // A writable segment has pages of our own, relocated ones among them: they must stay.
    if (segment.p_type != PT_LOAD || (segment.p_flags & PF_W) != 0) continue;
    const std::uintptr_t begin = (info->dlpi_addr + segment.p_vaddr) & ~(kPage - 1);
    const std::uintptr_t end = info->dlpi_addr + segment.p_vaddr + segment.p_memsz;
    // Fails for the vDSO, which is no file.
    // NOLINTNEXTLINE(performance-no-int-to-ptr)
    ::madvise(reinterpret_cast<void*>(begin), end - begin, MADV_DONTNEED);
  }
  return 0;
}

}  // namespace

void forget_start_up() noexcept { ::dl_iterate_phdr(forget_segments, nullptr); }

}  // namespace godwit::sys
