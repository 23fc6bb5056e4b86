#include "vmm/devices/virtio/worker.h"

#include <poll.h>
#include <pthread.h>
#include <signal.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <exception>
#include <utility>

#include "vmm/sys/error.h"

namespace godwit::devices {
namespace {

constexpr std::size_t kMaxDoorbells = 8;

}  // namespace

Worker::Worker(const char* name, std::function<void()> serve, std::function<void()> failed)
    : serve_(std::move(serve)), failed_(std::move(failed)) {
  sigset_t all, before;
  ::sigfillset(&all);
  ::pthread_sigmask(SIG_SETMASK, &all, &before);
  try {
    thread_ = std::thread([this] { run(); });
  } catch (...) {
    ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
    throw;
  }
  ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
  ::pthread_setname_np(thread_.native_handle(), name);
}

Worker::~Worker() {
  stop();
  {
    const std::lock_guard lock(mutex_);
    exit_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

void Worker::start() {
  {
    const std::lock_guard lock(mutex_);
    stop_requested_ = false;
    serving_ = true;
  }
  changed_.notify_all();
}

void Worker::stop() {
  std::unique_lock lock(mutex_);
  if (!serving_) return;
  stop_requested_ = true;
  wake_up_.signal();
  changed_.wait(lock, [this] { return !serving_; });
}

void Worker::wait(std::span<const sys::EventFd* const> doorbells, int timeout_ms) {
  std::array<pollfd, kMaxDoorbells + 1> polls{};
  std::size_t count = 0;
  polls[count++] = {wake_up_.fd(), POLLIN, 0};
  for (const sys::EventFd* doorbell : doorbells.first(std::min(doorbells.size(), kMaxDoorbells))) {
    polls[count++] = {doorbell != nullptr ? doorbell->fd() : -1, POLLIN, 0};
  }
  if (::poll(polls.data(), count, timeout_ms) < 0 && errno != EINTR) sys::throw_errno("poll");
  wake_up_.drain();
  for (const sys::EventFd* doorbell : doorbells) {
    if (doorbell != nullptr) doorbell->drain();
  }
}

void Worker::run() {
  std::unique_lock lock(mutex_);
  for (;;) {
    changed_.wait(lock, [this] { return serving_ || exit_; });
    if (exit_) return;
    lock.unlock();
    try {
      serve_();
    } catch (const std::exception&) {
      failed_();
    }
    lock.lock();
    serving_ = false;
    changed_.notify_all();
  }
}

}  // namespace godwit::devices
