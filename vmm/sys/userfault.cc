#include "vmm/sys/userfault.h"

#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstring>
#include <stdexcept>

#include "vmm/sys/error.h"

namespace godwit::sys {

namespace {

constexpr std::size_t kPage = 4096;

uffdio_range range_of(std::span<std::byte> memory) {
  return {reinterpret_cast<std::uint64_t>(memory.data()), memory.size()};
}

// The device (Linux 6.1) is a matter of its permissions; the system call of
// vm.unprivileged_userfaultfd or CAP_SYS_PTRACE. Without either a descriptor would see no faults
// that KVM has.
int open_userfault() {
  const UniqueFd device(::open("/dev/userfaultfd", O_RDWR | O_CLOEXEC));
  if (device) return ::ioctl(device.get(), USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK);
  return static_cast<int>(::syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK));
}

}  // namespace

UserFault::UserFault() : fd_(open_userfault()) {
  if (!fd_) {
    throw std::runtime_error(std::string("no userfaultfd: ") + std::strerror(errno) +
                             ": let this user open /dev/userfaultfd, or set "
                             "vm.unprivileged_userfaultfd to 1");
  }
  uffdio_api api{UFFD_API, UFFD_FEATURE_MISSING_SHMEM | UFFD_FEATURE_MINOR_SHMEM, 0};
  if (::ioctl(fd_.get(), UFFDIO_API, &api) != 0) {
    throw std::runtime_error(
        "this kernel's userfaultfd knows no minor faults of shared memory: "
        "Linux 5.14 or later is needed");
  }
}

std::string UserFault::complaint() try {
  const UserFault probe;
  return {};
} catch (const std::runtime_error& error) {
  return error.what();
}

void UserFault::watch(std::span<std::byte> memory) {
  uffdio_register watched{range_of(memory),
                          UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_MINOR, 0};
  check(::ioctl(fd_.get(), UFFDIO_REGISTER, &watched), "UFFDIO_REGISTER");
}

void UserFault::release(std::span<std::byte> memory) {
  uffdio_range range = range_of(memory);
  check(::ioctl(fd_.get(), UFFDIO_UNREGISTER, &range), "UFFDIO_UNREGISTER");
  // Linux wakes before it takes the VMA's lock: a thread that faults in between would sleep for
  // good.
  wake(memory);
}

std::optional<UserFault::Fault> UserFault::next() const {
  uffd_msg message{};
  while (::read(fd_.get(), &message, sizeof message) == ssize_t{sizeof message}) {
    if (message.event != UFFD_EVENT_PAGEFAULT) continue;
    return Fault{message.arg.pagefault.address & ~std::uint64_t{kPage - 1},
                 (message.arg.pagefault.flags & UFFD_PAGEFAULT_FLAG_MINOR) != 0};
  }
  return std::nullopt;
}

void UserFault::map(std::span<std::byte> pages) const {
  while (!pages.empty()) {
    uffdio_continue request{range_of(pages), 0, 0};
    if (::ioctl(fd_.get(), UFFDIO_CONTINUE, &request) == 0) return;
    if (request.mapped > 0) {
      pages = pages.subspan(static_cast<std::size_t>(request.mapped));
    } else if (errno != EAGAIN) {
      // Somebody mapped it first (EEXIST), or the file has no page any more: who waits looks again.
      wake(pages.first(kPage));
      pages = pages.subspan(kPage);
    }
  }
}

void UserFault::map_zero(std::span<std::byte> pages) const {
  while (!pages.empty()) {
    uffdio_zeropage request{range_of(pages), 0, 0};
    if (::ioctl(fd_.get(), UFFDIO_ZEROPAGE, &request) == 0) return;
    if (request.zeropage > 0) {
      pages = pages.subspan(static_cast<std::size_t>(request.zeropage));
    } else if (errno != EAGAIN) {
      wake(pages.first(kPage));
      pages = pages.subspan(kPage);
    }
  }
}

void UserFault::wake(std::span<std::byte> pages) const {
  uffdio_range range = range_of(pages);
  ::ioctl(fd_.get(), UFFDIO_WAKE, &range);
}

}  // namespace godwit::sys
