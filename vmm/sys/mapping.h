// A memory mapping with one owner, unmapped on destruction.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <span>

namespace godwit::sys {

class Mapping {
 public:
  Mapping() = default;
  /// mmap(2) with the kernel's choice of address; throws std::system_error.
  Mapping(std::size_t size, int protection, int flags, int fd, off_t offset);
  /// The same at an address that is a multiple of `alignment`: a power of two, at least a page.
  static Mapping aligned(std::size_t alignment, std::size_t size, int protection, int flags,
                         int fd);
  Mapping(Mapping&& other) noexcept;
  Mapping& operator=(Mapping&& other) noexcept;
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;
  ~Mapping();

  std::byte* data() const { return data_; }
  std::size_t size() const { return size_; }
  std::span<std::byte> bytes() const { return {data_, size_}; }

 private:
  Mapping(std::byte* data, std::size_t size) : data_(data), size_(size) {}
  std::byte* data_ = nullptr;
  std::size_t size_ = 0;
};

}  // namespace godwit::sys
