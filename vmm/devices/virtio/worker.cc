#include "vmm/devices/virtio/worker.h"

#include <pthread.h>
#include <signal.h>

#include <exception>
#include <utility>

namespace godwit::devices {

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
