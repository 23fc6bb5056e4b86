// A raw disk image: a regular file or a block device. Opening takes no lock, because the
// destination of a move opens while the source still runs; lock() comes before the guest does.
// Owned by Machine, which locks and unlocks from one thread; the descriptor is used by the disk's
// I/O thread.
#pragma once

#include <cstdint>
#include <string>

#include "vmm/sys/unique_fd.h"

namespace godwit::devices {

class DiskImage {
 public:
  /// Throws std::system_error when the image cannot be opened, and std::runtime_error, in one line
  /// for the user, when it is neither a regular file nor a block device, or smaller than one
  /// sector. `direct`: past the page cache, by O_DIRECT; std::runtime_error where there is none.
  DiskImage(std::string path, bool read_only, bool direct = false);

  int fd() const { return fd_.get(); }
  const std::string& path() const { return path_; }
  bool read_only() const { return read_only_; }
  bool block_device() const { return block_device_; }
  bool direct() const { return direct_; }
  /// What offsets and lengths of I/O must be multiples of, bytes, and addresses of buffers.
  std::uint32_t block_size() const { return block_size_; }
  std::uint32_t buffer_alignment() const { return buffer_alignment_; }
  /// Whole sectors of 512 bytes; fixed at opening. What is left of a last partial one is out of
  /// reach.
  std::uint64_t sectors() const { return sectors_; }

  /// Takes an open-file-description lock of the whole image (fcntl(2), F_OFD_SETLK): exclusive, or
  /// shared when read-only. The kernel releases it when the last descriptor goes, so also at kill
  /// -9. Throws std::runtime_error naming the image and, where /proc tells, the holder. Idempotent.
  /// A file system without locks is an error only for a writable image. What this kernel may have
  /// cached of an image that others can reach is dropped.
  void lock();
  /// Releases it, and first writes back what the page cache holds when another host could open the
  /// image next (block devices, network file systems). Idempotent. Throws std::system_error if that
  /// fails.
  void unlock();
  /// Somebody else has a lock that does not go with lock().
  bool locked_elsewhere() const;

  /// When it was changed last, nanoseconds of the clock of who stores it. A block device does not
  /// know. Throws std::system_error.
  std::int64_t stamp() const;
  /// Makes stamp() another, and changes nothing else. Takes as long as the clock of the file system
  /// needs to go on, a few milliseconds at most after the last write. Throws std::system_error or
  /// std::runtime_error.
  void mark();

 private:
  bool shared_with_hosts() const;
  void find_alignment();

  std::string path_;
  bool read_only_;
  bool direct_;
  bool block_device_ = false;
  std::uint32_t block_size_ = 512;
  std::uint32_t buffer_alignment_ = 1;
  sys::UniqueFd fd_;
  std::uint64_t sectors_ = 0;
  bool locked_ = false;
};

}  // namespace godwit::devices
