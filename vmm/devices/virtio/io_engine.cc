#include "vmm/devices/virtio/io_engine.h"

#include <fcntl.h>
#include <liburing.h>
#include <linux/falloc.h>
#include <poll.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <stdexcept>

#include "vmm/sys/error.h"

namespace godwit::devices {
namespace {

constexpr std::size_t kMaxWakeUps = 8;

// On block devices the kernel turns these into discards and zero-outs of its own.
int fallocate_mode(IoOperation::Kind kind) {
  return FALLOC_FL_KEEP_SIZE |
         (kind == IoOperation::Kind::kDiscard ? FALLOC_FL_PUNCH_HOLE : FALLOC_FL_ZERO_RANGE);
}

class UringEngine final : public IoEngine {
 public:
  UringEngine(int file, unsigned depth) : file_(file) {
    const int error = ::io_uring_queue_init(depth + kMaxWakeUps, &ring_, 0);
    if (error < 0) sys::throw_errno("io_uring_setup", -error);
  }
  ~UringEngine() override { ::io_uring_queue_exit(&ring_); }
  UringEngine(const UringEngine&) = delete;
  UringEngine& operator=(const UringEngine&) = delete;

  bool asynchronous() const override { return true; }

  void submit(const IoOperation& operation) override {
    io_uring_sqe* entry = next_entry();
    prepare(entry, operation);
    entry->user_data = operation.id;
  }

  void wait(std::span<const sys::EventFd* const> wake_ups,
            std::vector<IoCompletion>& completions) override {
    completions.clear();
    for (std::size_t i = 0; i < wake_ups.size(); ++i) {
      if (armed_.at(i)) continue;
      io_uring_sqe* entry = next_entry();
      ::io_uring_prep_poll_add(entry, wake_ups[i]->fd(), POLLIN);
      entry->user_data = kWakeUp + i;
      armed_[i] = true;
    }
    const int result = ::io_uring_submit_and_wait(&ring_, 1);
    // EAGAIN, EBUSY: the kernel is short of memory or wants completions reaped first. Both pass.
    if (result == -EAGAIN || result == -EBUSY) ::usleep(1000);
    if (result < 0 && result != -EINTR && result != -EAGAIN && result != -EBUSY) {
      sys::throw_errno("io_uring_enter", -result);
    }
    reap(wake_ups, completions);
  }

 private:
  static constexpr std::uint64_t kWakeUp = std::uint64_t{1} << 32;  // above every operation's id

  io_uring_sqe* next_entry() {
    io_uring_sqe* entry = ::io_uring_get_sqe(&ring_);
    if (entry == nullptr) throw std::logic_error("io_uring: more operations than entries");
    return entry;
  }

  void prepare(io_uring_sqe* entry, const IoOperation& operation) const {
    const auto count = static_cast<unsigned>(operation.buffers.size());
    switch (operation.kind) {
      case IoOperation::Kind::kRead:
        ::io_uring_prep_readv(entry, file_, operation.buffers.data(), count, operation.offset);
        break;
      case IoOperation::Kind::kWrite:
        ::io_uring_prep_writev2(entry, file_, operation.buffers.data(), count, operation.offset,
                                operation.durable ? RWF_DSYNC : 0);
        break;
      case IoOperation::Kind::kSync:
        ::io_uring_prep_fsync(entry, file_, IORING_FSYNC_DATASYNC);
        break;
      case IoOperation::Kind::kDiscard:
      case IoOperation::Kind::kZero:
        ::io_uring_prep_fallocate(entry, file_, fallocate_mode(operation.kind),
                                  static_cast<off_t>(operation.offset),
                                  static_cast<off_t>(operation.length));
        break;
    }
  }

  void reap(std::span<const sys::EventFd* const> wake_ups, std::vector<IoCompletion>& completions) {
    unsigned head = 0;
    unsigned seen = 0;
    io_uring_cqe* entry = nullptr;
    io_uring_for_each_cqe(&ring_, head, entry) {
      ++seen;
      if (entry->user_data < kWakeUp) {
        completions.push_back({static_cast<std::uint32_t>(entry->user_data), entry->res});
        continue;
      }
      const std::size_t i = entry->user_data - kWakeUp;
      armed_.at(i) = false;
      wake_ups[i]->drain();
    }
    ::io_uring_cq_advance(&ring_, seen);
  }

  int file_;
  io_uring ring_{};
  std::array<bool, kMaxWakeUps> armed_{};
};

class SynchronousEngine final : public IoEngine {
 public:
  explicit SynchronousEngine(int file) : file_(file) {}

  bool asynchronous() const override { return false; }
  void submit(const IoOperation& operation) override { waiting_.push_back(operation); }

  void wait(std::span<const sys::EventFd* const> wake_ups,
            std::vector<IoCompletion>& completions) override {
    completions.clear();
    for (const IoOperation& operation : waiting_) {
      const std::int64_t result = carry_out(operation);
      completions.push_back({operation.id, result < 0 ? -errno : result});
    }
    waiting_.clear();
    std::array<pollfd, kMaxWakeUps> polls{};
    for (std::size_t i = 0; i < wake_ups.size(); ++i) {
      polls.at(i) = {wake_ups[i]->fd(), POLLIN, 0};
    }
    const int ready = ::poll(polls.data(), wake_ups.size(), completions.empty() ? -1 : 0);
    if (ready < 0 && errno != EINTR) sys::throw_errno("poll");
    for (std::size_t i = 0; i < wake_ups.size(); ++i) {
      if (ready > 0 && polls[i].revents != 0) wake_ups[i]->drain();
    }
  }

 private:
  std::int64_t carry_out(const IoOperation& operation) const {
    const auto count = static_cast<int>(operation.buffers.size());
    const auto offset = static_cast<off_t>(operation.offset);
    switch (operation.kind) {
      case IoOperation::Kind::kRead:
        return ::preadv(file_, operation.buffers.data(), count, offset);
      case IoOperation::Kind::kWrite:
        return ::pwritev2(file_, operation.buffers.data(), count, offset,
                          operation.durable ? RWF_DSYNC : 0);
      case IoOperation::Kind::kSync:
        return ::fdatasync(file_);
      default:
        return ::fallocate(file_, fallocate_mode(operation.kind), offset,
                           static_cast<off_t>(operation.length));
    }
  }

  int file_;
  std::vector<IoOperation> waiting_;
};

}  // namespace

std::unique_ptr<IoEngine> IoEngine::create(int file, unsigned depth, Kind kind) {
  if (kind == Kind::kBest) {
    try {
      return std::make_unique<UringEngine>(file, depth);
    } catch (const std::system_error&) {
      // Not permitted here: the other way works everywhere.
    }
  }
  return std::make_unique<SynchronousEngine>(file);
}

}  // namespace godwit::devices
