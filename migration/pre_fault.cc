#include "migration/pre_fault.h"

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <mutex>

#include "vmm/memory/page_bitmap.h"
#include "vmm/sys/background.h"

namespace godwit::migration {

using memory::PageRange;

namespace {
constexpr std::chrono::milliseconds kInterval{50};
constexpr std::uint64_t kBatch = 16;  // pages between two looks at whether to stop
}  // namespace

PreFault::PreFault(vmm::Machine& machine)
    : thread_([&machine](const std::stop_token& stop) { follow(stop, machine); }) {}

void PreFault::follow(const std::stop_token& stop, vmm::Machine& machine) {
  sys::run_in_background();
  memory::GuestMemory& memory = machine.memory();
  memory::PageBitmap done(memory.pages());
  std::mutex mutex;
  std::condition_variable_any wake;
  std::unique_lock lock(mutex);
  while (!wake.wait_for(lock, stop, kInterval, [&] { return stop.stop_requested(); })) {
    memory::PageBitmap fresh(memory.pages());
    for (const PageRange& range : memory.populated({0, memory.pages()})) fresh.set(range);
    for (const PageRange& range : done.ranges()) fresh.reset(range);
    for (const PageRange& range : fresh.ranges()) {
      for (PageRange rest = range; rest.count > 0;) {
        if (stop.stop_requested()) return;
        const PageRange batch{rest.first, std::min(kBatch, rest.count)};
        if (!machine.pre_fault(batch)) return;
        done.set(batch);
        rest = {batch.end(), rest.count - batch.count};
      }
    }
  }
}

}  // namespace godwit::migration
