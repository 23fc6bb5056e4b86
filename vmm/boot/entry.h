// Where and how a loaded guest begins: what the boot vCPU's registers must say.
#pragma once

#include <cstdint>
#include <stdexcept>

namespace godwit::boot {

/// An image that cannot be booted; what() is one line for the user, without the file's name.
class ImageError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

struct Entry {
  enum class Mode {
    kProtected32,  // PVH: flat 32-bit segments, paging off, boot_info in EBX
    kLong64,       // Linux 64-bit boot protocol: identity map of 4 GiB, boot_info in RSI
  } mode = Mode::kProtected32;
  std::uint64_t address = 0;    // guest-physical
  std::uint64_t boot_info = 0;  // hvm_start_info or boot_params, guest-physical
};

/// A loaded kernel, before its initrd and boot information are there.
struct LoadedKernel {
  Entry::Mode mode = Entry::Mode::kProtected32;
  std::uint64_t entry = 0;
  std::uint64_t end = 0;               // first byte after all memory it needs to start
  std::uint64_t initrd_max = 0;        // highest address of the initrd's last byte
  std::uint64_t command_line_max = 0;  // characters without the terminating zero
};

/// Where the initrd was put; size 0 when there is none.
struct InitrdRange {
  std::uint64_t address = 0;
  std::uint64_t size = 0;
};

}  // namespace godwit::boot
