// Asynchronous I/O on one file, for one thread: operations go in, completions come out, and the
// thread sleeps until there is one or until a watched eventfd counts up. By io_uring; where the
// kernel does not permit that (ENOSYS, EPERM in a container, or no memory for a ring), operations
// are carried out one after the other inside wait(), behind the same interface: correct, but
// slower, and the guest is not told.
#pragma once

#include <sys/uio.h>

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "vmm/sys/event_fd.h"

namespace godwit::devices {

struct IoOperation {
  enum class Kind {
    kRead,     // into `buffers`
    kWrite,    // out of `buffers`
    kSync,     // fdatasync(2): every write completed before is stable after
    kDiscard,  // contents become undefined (here: zero), space is given back
    kZero,     // contents become zero, space stays allocated
  };
  Kind kind = Kind::kRead;
  bool durable = false;      // kWrite: stable when it completes (RWF_DSYNC)
  std::uint64_t offset = 0;  // bytes into the file
  std::uint64_t length = 0;  // bytes, of kDiscard and kZero
  std::span<const iovec> buffers =
      {};                // at most 1024; it and the memory stay valid until completion
  std::uint32_t id = 0;  // comes back with the completion
};

struct IoCompletion {
  std::uint32_t id = 0;
  std::int64_t result = 0;  // bytes moved, or -errno
};

class IoEngine {
 public:
  enum class Kind { kBest, kSynchronous };

  /// For at most `depth` operations in flight. Throws std::system_error.
  static std::unique_ptr<IoEngine> create(int file, unsigned depth, Kind kind = Kind::kBest);
  virtual ~IoEngine() = default;

  virtual bool asynchronous() const = 0;
  /// Starts the operation now or at the next wait().
  virtual void submit(const IoOperation& operation) = 0;
  /// Blocks until an operation completed or one of `wake_ups` counted up; drains those that did.
  /// The same wake-ups, at most 8, must be given each time. Replaces `completions`, which may stay
  /// empty.
  virtual void wait(std::span<const sys::EventFd* const> wake_ups,
                    std::vector<IoCompletion>& completions) = 0;
};

}  // namespace godwit::devices
