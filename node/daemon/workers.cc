#include "node/daemon/workers.h"

namespace godwit::node {

bool Workers::run(std::function<void()> work) {
  {
    const std::lock_guard lock(count_->mutex);
    if (count_->busy >= kMost) return false;
    ++count_->busy;
  }
  std::thread([work = std::move(work), count = count_] {
    work();
    const std::lock_guard lock(count->mutex);
    --count->busy;
  }).detach();
  return true;
}

}  // namespace godwit::node
