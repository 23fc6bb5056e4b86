// An eventfd(2): a counter that wakes pollers. signal() and drain() may be called from any thread.
#pragma once

#include "vmm/sys/unique_fd.h"

namespace godwit::sys {

class EventFd {
 public:
  /// Non-blocking, close-on-exec; throws std::system_error.
  EventFd();

  int fd() const { return fd_.get(); }
  void signal() const;
  /// Resets the counter; true when it was non-zero.
  bool drain() const;

 private:
  UniqueFd fd_;
};

}  // namespace godwit::sys
