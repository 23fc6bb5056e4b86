#include "vmm/sys/event_fd.h"

#include <sys/eventfd.h>

#include <cstdint>

#include "vmm/sys/error.h"

namespace godwit::sys {

EventFd::EventFd() : fd_(check(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK), "eventfd")) {}

void EventFd::signal() const {
  const std::uint64_t one = 1;
  if (::write(fd_.get(), &one, sizeof one) < 0 && errno != EAGAIN) throw_errno("write eventfd");
}

bool EventFd::drain() const {
  std::uint64_t count = 0;
  if (::read(fd_.get(), &count, sizeof count) < 0) {
    if (errno == EAGAIN) return false;
    throw_errno("read eventfd");
  }
  return count != 0;
}

}  // namespace godwit::sys
