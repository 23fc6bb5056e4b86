// The thread of a virtio backend: it sleeps, serves from start() until it is told to stop, and
// sleeps again. Owned by the backend, as its last member; start() and stop() come from the
// transport, one at a time. No signal is delivered to it: vCPU kicks and Ctrl-C are others'
// business.
#pragma once

#include <atomic>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <span>
#include <thread>

#include "vmm/sys/event_fd.h"

namespace godwit::devices {

class Worker {
 public:
  /// `serve` runs on the thread after each start() and returns soon once stopping() is true, of
  /// which wake_fd() tells; what it throws goes to `failed`. `name`: at most 15 characters. Throws
  /// std::system_error.
  Worker(const char* name, std::function<void()> serve, std::function<void()> failed);
  ~Worker();
  Worker(const Worker&) = delete;
  Worker& operator=(const Worker&) = delete;

  /// What was written before start() is seen by serve().
  void start();
  /// Returns when serve() has. Idempotent.
  void stop();

  bool stopping() const { return stop_requested_; }
  /// Readable after stop() and wake(), until drained.
  const sys::EventFd& wake_up() const { return wake_up_; }
  /// Sleeps until one of the doorbells rings (nullptr: none there), stop() or wake() is called, or
  /// `timeout_ms` are over (-1: never); for serve(). They are drained after.
  void wait(std::span<const sys::EventFd* const> doorbells, int timeout_ms = -1);
  /// Has serve() look around. Any thread.
  void wake() { wake_up_.signal(); }

 private:
  void run();

  const std::function<void()> serve_;
  const std::function<void()> failed_;
  std::mutex mutex_;
  std::condition_variable changed_;
  bool serving_ = false;
  bool exit_ = false;
  std::atomic<bool> stop_requested_ = false;
  sys::EventFd wake_up_;
  std::thread thread_;  // last: it uses all of the above
};

}  // namespace godwit::devices
