#include "vmm/devices/virtio/disk_image.h"

#include <fcntl.h>
#include <fmt/core.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstddef>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <stdexcept>
#include <thread>
#include <utility>

#include "vmm/sys/error.h"

namespace godwit::devices {
namespace {

namespace fs = std::filesystem;

bool same_file(const struct stat& a, const struct stat& b) {
  if (S_ISBLK(a.st_mode) && S_ISBLK(b.st_mode)) return a.st_rdev == b.st_rdev;
  return a.st_dev == b.st_dev && a.st_ino == b.st_ino;
}

bool holds_a_lock(const fs::path& fdinfo) {
  std::ifstream lines(fdinfo);
  for (std::string line; std::getline(lines, line);) {
    if (line.starts_with("lock:")) return true;
  }
  return false;
}

/// " by process 123 (name)", or nothing: F_OFD_GETLK does not say whose a lock is, but proc(5)
/// shows every descriptor's, to whom may look.
std::string holder_of(int fd) {
  struct stat wanted = {};
  if (::fstat(fd, &wanted) != 0) return {};
  std::error_code ignored;
  for (const auto& process : fs::directory_iterator("/proc", ignored)) {
    const std::string pid = process.path().filename();
    if (pid.find_first_not_of("0123456789") != std::string::npos) continue;
    for (const auto& entry : fs::directory_iterator(process.path() / "fd", ignored)) {
      struct stat found = {};
      if (::stat(entry.path().c_str(), &found) != 0 || !same_file(found, wanted)) continue;
      if (!holds_a_lock(process.path() / "fdinfo" / entry.path().filename())) continue;
      std::string name;
      std::getline(std::ifstream(process.path() / "comm") >> std::ws, name);
      return fmt::format(" by process {} ({})", pid, name);
    }
  }
  return {};
}

constexpr std::uint64_t kSectorSize = 512;

constexpr std::uint32_t kLargestBlock = 4096;  // that a guest can be shown

[[noreturn]] void throw_no_direct_io(const std::string& path) {
  throw std::runtime_error(
      fmt::format("disk image {}: its file system cannot do without the page cache (O_DIRECT): use "
                  "cache=writeback",
                  path));
}

int set_lock(int fd, short type) {
  struct flock lock = {};
  lock.l_type = type;
  lock.l_whence = SEEK_SET;  // l_start 0, l_len 0: everything
  return ::fcntl(fd, F_OFD_SETLK, &lock) == 0 ? 0 : errno;
}

}  // namespace

DiskImage::DiskImage(std::string path, bool read_only, bool direct)
    : path_(std::move(path)), read_only_(read_only), direct_(direct) {
  // O_NONBLOCK so that a FIFO does not hold us up; off again at once, since io_uring heeds it.
  const int flags = (read_only ? O_RDONLY : O_RDWR) | O_CLOEXEC | (direct ? O_DIRECT : 0);
  fd_ = sys::UniqueFd(::open(path_.c_str(), flags | O_NONBLOCK));
  if (!fd_ && direct && errno == EINVAL) throw_no_direct_io(path_);
  if (!fd_) sys::throw_errno(fmt::format("open disk image {}", path_));
  sys::check(::fcntl(fd_.get(), F_SETFL, flags), "set flags of the disk image");
  struct stat status = {};
  sys::check(::fstat(fd_.get(), &status), "fstat disk image");
  std::uint64_t bytes = 0;
  if (S_ISREG(status.st_mode)) {
    bytes = static_cast<std::uint64_t>(status.st_size);
  } else if (S_ISBLK(status.st_mode)) {
    block_device_ = true;
    sys::check(::ioctl(fd_.get(), BLKGETSIZE64, &bytes), "read the size of the block device");
  } else {
    throw std::runtime_error(
        fmt::format("disk image {}: neither a regular file nor a block device", path_));
  }
  sectors_ = bytes / kSectorSize;
  if (sectors_ == 0) {
    throw std::runtime_error(
        fmt::format("disk image {}: is empty; give it a size, as with truncate -s 10G", path_));
  }
  if (!direct_) return;
  find_alignment();
  const std::uint64_t block = block_size_ / kSectorSize;
  if (block_size_ > kLargestBlock || sectors_ % block != 0) {
    throw std::runtime_error(
        fmt::format("disk image {}: cache=none needs a size that is a multiple of {} bytes here",
                    path_, block_size_));
  }
}

/// Asks the kernel, which tells since Linux 6.1, and tries where it does not.
void DiskImage::find_alignment() {
  struct statx status = {};
  if (::statx(fd_.get(), "", AT_EMPTY_PATH, STATX_DIOALIGN, &status) == 0 &&
      (status.stx_mask & STATX_DIOALIGN) != 0) {
    if (status.stx_dio_offset_align == 0) throw_no_direct_io(path_);
    block_size_ = std::max<std::uint32_t>(status.stx_dio_offset_align, kSectorSize);
    buffer_alignment_ = std::max<std::uint32_t>(status.stx_dio_mem_align, 1);
    return;
  }
  alignas(4096) static std::array<std::byte, 4096> buffer;
  for (const std::uint32_t size : {std::uint32_t{kSectorSize}, std::uint32_t{buffer.size()}}) {
    if (::pread(fd_.get(), buffer.data(), size, 0) < 0) continue;
    block_size_ = buffer_alignment_ = size;
    return;
  }
  throw_no_direct_io(path_);
}

void DiskImage::lock() {
  if (locked_) return;
  const int error = set_lock(fd_.get(), read_only_ ? F_RDLCK : F_WRLCK);
  if (error == EAGAIN || error == EACCES) {
    throw std::runtime_error(
        fmt::format("disk image {}: in use{}; a {} image needs {}", path_, holder_of(fd_.get()),
                    read_only_ ? "read-only" : "writable",
                    read_only_ ? "that nobody writes it" : "to be its only user"));
  }
  if (error != 0 && !read_only_) {
    sys::throw_errno(fmt::format("lock disk image {}", path_), error);
  }
  locked_ = true;
  // Another host may have written since this kernel last read.
  if (shared_with_hosts()) ::posix_fadvise(fd_.get(), 0, 0, POSIX_FADV_DONTNEED);
}

void DiskImage::unlock() {
  if (!locked_) return;
  if (!read_only_ && shared_with_hosts() && ::fdatasync(fd_.get()) != 0) {
    sys::throw_errno(fmt::format("write back disk image {}", path_));
  }
  set_lock(fd_.get(), F_UNLCK);
  locked_ = false;
}

bool DiskImage::locked_elsewhere() const {
  struct flock lock = {};
  lock.l_type = read_only_ ? F_RDLCK : F_WRLCK;
  lock.l_whence = SEEK_SET;
  return ::fcntl(fd_.get(), F_OFD_GETLK, &lock) == 0 && lock.l_type != F_UNLCK;
}

std::int64_t DiskImage::stamp() const {
  struct statx status = {};
  sys::check(::statx(fd_.get(), "", AT_EMPTY_PATH | AT_STATX_FORCE_SYNC, STATX_MTIME, &status),
             "look at the disk image");
  return status.stx_mtime.tv_sec * 1'000'000'000 + status.stx_mtime.tv_nsec;
}

void DiskImage::mark() {
  const std::int64_t before = stamp();
  for (int tries = 0; tries < 100; ++tries) {
    // To now: for another time one would have to own the file.
    sys::check(::futimens(fd_.get(), nullptr), "mark the disk image");
    if (stamp() != before) return;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  throw std::runtime_error(
      fmt::format("disk image {}: its file system's clock stands still", path_));
}

// A file on these file systems is only ever opened through this kernel, whose page cache is one.
bool DiskImage::shared_with_hosts() const {
  if (block_device_) return true;
  struct statfs status = {};
  if (::fstatfs(fd_.get(), &status) != 0) return true;
  switch (static_cast<unsigned long>(status.f_type)) {
    case EXT4_SUPER_MAGIC:
    case XFS_SUPER_MAGIC:
    case BTRFS_SUPER_MAGIC:
    case TMPFS_MAGIC:
    case OVERLAYFS_SUPER_MAGIC:
      return false;
    default:
      return true;
  }
}

}  // namespace godwit::devices
