// Page faults of this process handled by itself: userfaultfd(2) over a shared mapping, for pages
// that are not in the file yet (missing) and for pages that are, but not in this mapping (minor).
// Also faults that the kernel has on our behalf, such as KVM's. One thread at a time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>

#include "vmm/sys/unique_fd.h"

namespace godwit::sys {

class UserFault {
 public:
  struct Fault {
    std::uint64_t address;  // of its page's first byte
    bool minor;             // the file has the page
  };

  /// Throws std::runtime_error saying what to do where the kernel or its administrator has none.
  UserFault();

  /// Empty if the constructor would succeed, else why not.
  static std::string complaint();

  int fd() const { return fd_.get(); }  // readable when there are faults
  /// From now on every first look at a page of `memory`, a mapping of a memfd, is a fault. Throws
  /// std::system_error.
  void watch(std::span<std::byte> memory);
  /// Ends that; threads that wait go on with what the file has.
  void release(std::span<std::byte> memory);

  std::optional<Fault> next() const;  // without waiting
  /// The file has these pages: lets whoever waits for them go on.
  void map(std::span<std::byte> pages) const;
  /// The file has nothing there: zeros.
  void map_zero(std::span<std::byte> pages) const;

 private:
  void wake(std::span<std::byte> pages) const;
  UniqueFd fd_;
};

}  // namespace godwit::sys
