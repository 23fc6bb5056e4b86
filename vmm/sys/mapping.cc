#include "vmm/sys/mapping.h"

#include <sys/mman.h>

#include <cstdint>
#include <utility>

#include "vmm/sys/error.h"

namespace godwit::sys {

Mapping::Mapping(std::size_t size, int protection, int flags, int fd, off_t offset) {
  void* address = ::mmap(nullptr, size, protection, flags, fd, offset);
  if (address == MAP_FAILED) throw_errno("mmap");
  data_ = static_cast<std::byte*>(address);
  size_ = size;
}

Mapping Mapping::aligned(std::size_t alignment, std::size_t size, int protection, int flags,
                         int fd) {
  // Address space for any offset, then the mapping into the aligned middle of it.
  const std::size_t room = size + alignment;
  void* reserved =
      ::mmap(nullptr, room, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (reserved == MAP_FAILED) throw_errno("mmap");
  Mapping reserve(static_cast<std::byte*>(reserved), room);
  const auto start = reinterpret_cast<std::uintptr_t>(reserved);
  const std::size_t before = (alignment - start % alignment) % alignment;
  std::byte* const at = reserve.data_ + before;
  if (::mmap(at, size, protection, flags | MAP_FIXED, fd, 0) == MAP_FAILED) throw_errno("mmap");
  Mapping mapping(at, size);
  if (before > 0) ::munmap(reserve.data_, before);
  ::munmap(at + size, room - before - size);
  reserve.data_ = nullptr;
  return mapping;
}

Mapping::Mapping(Mapping&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}

Mapping& Mapping::operator=(Mapping&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

Mapping::~Mapping() {
  if (data_ != nullptr) ::munmap(data_, size_);
}

}  // namespace godwit::sys
