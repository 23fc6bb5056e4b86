// Several descriptors as one that can be polled: readable when one of them is (epoll(7)).
#pragma once

#include <sys/epoll.h>

#include "vmm/sys/error.h"
#include "vmm/sys/unique_fd.h"

namespace godwit::sys {

class PollSet {
 public:
  PollSet() : fd_(check(::epoll_create1(EPOLL_CLOEXEC), "epoll_create1")) {}

  /// Until `fd` is closed.
  void add(int fd) const {
    epoll_event event{};
    event.events = EPOLLIN;
    check(::epoll_ctl(fd_.get(), EPOLL_CTL_ADD, fd, &event), "epoll_ctl");
  }
  int fd() const { return fd_.get(); }

 private:
  UniqueFd fd_;
};

}  // namespace godwit::sys
