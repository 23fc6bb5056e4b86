// The destination's nested page tables, built while RAM still arrives: a guest that starts to run
// with empty ones leaves for the hypervisor at its first look at every page (some 250 exits in its
// first 100 ms). A thread of its own, for as long as this object lives.
#pragma once

#include <thread>

#include "vmm/machine.h"

namespace godwit::migration {

class PreFault {
 public:
  /// `machine` must not run while this object lives, and must be restored only after stop().
  explicit PreFault(vmm::Machine& machine);

  /// Does not wait: a batch that is under way ends beside what comes next.
  void stop() { thread_.request_stop(); }

 private:
  static void follow(const std::stop_token& stop, vmm::Machine& machine);

  std::jthread thread_;
};

}  // namespace godwit::migration
