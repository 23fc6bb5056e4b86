#include "vmm/sys/mapping.h"

#include <sys/mman.h>

#include <utility>

#include "vmm/sys/error.h"

namespace godwit::sys {

Mapping::Mapping(std::size_t size, int protection, int flags, int fd, off_t offset) {
  void* address = ::mmap(nullptr, size, protection, flags, fd, offset);
  if (address == MAP_FAILED) throw_errno("mmap");
  data_ = static_cast<std::byte*>(address);
  size_ = size;
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
