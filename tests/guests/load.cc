// A guest whose load is switched from outside while it runs: it takes as many percent of its vCPU
// as the first bytes of its disk say, in decimal; a file that a test writes to. Says "load N" when
// that changes, and "tick SEQ t=MS" every second.
#include "guest.h"
#include "virtio_disk.h"

namespace guest {
namespace {

constexpr std::uint64_t kMs = 1'000'000;
constexpr std::uint64_t kSlice = 10 * kMs;
constexpr unsigned kSlices = 5;  // between two looks at the disk

std::uint64_t wanted(Disk& disk) {
  if (!disk.transfer(kRead, 0)) {
    print("CORRUPT the disk is not read");
    return 0;
  }
  const auto* const text = reinterpret_cast<const volatile char*>(data);
  std::uint64_t percent = 0;
  for (unsigned i = 0; i < 3 && text[i] >= '0' && text[i] <= '9'; ++i) {
    percent = 10 * percent + static_cast<std::uint64_t>(text[i] - '0');
  }
  return percent < 100 ? percent : 100;
}

}  // namespace

void main() {
  static Disk disk;
  if (!disk.find()) {
    print("CORRUPT no disk");
    return;
  }
  Clock clock;
  std::uint64_t load = 0, sequence = 0, tick_due = clock.now_ns();
  for (;;) {
    const std::uint64_t now_wanted = wanted(disk);
    if (now_wanted != load) print("load ", now_wanted);
    load = now_wanted;
    for (unsigned i = 0; i < kSlices; ++i) {
      const std::uint64_t began = clock.now_ns();
      while (clock.now_ns() - began < kSlice * load / 100) {
      }
      if (load < 100) sleep_ns(kSlice * (100 - load) / 100);
    }
    if (clock.now_ns() < tick_due) continue;
    print("tick ", sequence++, " t=", clock.now_ns() / kMs);
    tick_due += 1000 * kMs;
  }
}

}  // namespace guest
