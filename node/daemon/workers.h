// Threads for requests that block: one each, at most kMost at a time, so that a server's own thread
// never waits. Any thread.
#pragma once

#include <functional>
#include <memory>
#include <mutex>
#include <thread>

namespace godwit::node {

class Workers {
 public:
  static constexpr unsigned kMost = 32;

  /// False when kMost are busy: try again later. `work` must not throw.
  bool run(std::function<void()> work);

 private:
  struct Count {
    std::mutex mutex;
    unsigned busy = 0;
  };
  std::shared_ptr<Count> count_ = std::make_shared<Count>();
};

}  // namespace godwit::node
