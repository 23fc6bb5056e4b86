#include "migration/pre_fault.h"

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <iterator>
#include <mutex>
#include <vector>

#include "vmm/memory/page_bitmap.h"
#include "vmm/sys/background.h"

namespace godwit::migration {

using memory::PageRange;

namespace {
constexpr std::chrono::nanoseconds kInterval = std::chrono::milliseconds(50);
constexpr int kRest = 10;             // at least so many times as long as the last look at RAM took
constexpr std::uint64_t kBatch = 16;  // pages between two looks at whether to stop
}  // namespace

PreFault::PreFault(vmm::Machine& machine)
    : thread_([&machine](const std::stop_token& stop) { follow(stop, machine); }) {}

void PreFault::follow(const std::stop_token& stop, vmm::Machine& machine) {
  sys::run_in_background();
  memory::GuestMemory& memory = machine.memory();
  memory::PageBitmap left(memory.pages());
  left.set({0, memory.pages()});
  std::mutex mutex;
  std::condition_variable_any wake;
  std::unique_lock lock(mutex);
  std::chrono::nanoseconds interval = kInterval;
  while (!wake.wait_for(lock, stop, interval, [&] { return stop.stop_requested(); })) {
    const auto began = std::chrono::steady_clock::now();
    std::vector<PageRange> fresh;
    PageRange seen{};
    for (const PageRange& range : left.ranges())
      std::ranges::copy(memory.populated(range, seen), std::back_inserter(fresh));
    interval = std::max(kInterval, kRest * (std::chrono::steady_clock::now() - began));
    for (const PageRange& range : fresh) {
      left.reset(range);
      for (PageRange rest = range; rest.count > 0;) {
        if (stop.stop_requested()) return;
        const PageRange batch{rest.first, std::min(kBatch, rest.count)};
        if (!machine.pre_fault(batch)) return;
        rest = {batch.end(), rest.count - batch.count};
      }
    }
  }
}

}  // namespace godwit::migration
