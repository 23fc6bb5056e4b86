// A guest that writes to its disk, reads back what it wrote, and says so: block after block, each
// filled with what its last visit makes of it. What it read wrongly, or what the device refused, is
// a line "CORRUPT ...". Parameters: tick=MS between two lines, blocks=N of 4 KiB (at most 256).
//
// Typed: v reads and checks every block ("verified blocks=N"), q powers off; the rest is said back.
#include "guest.h"
#include "virtio_disk.h"

namespace guest {
namespace {

constexpr unsigned kMaxBlocks = 256;
constexpr std::uint64_t kMs = 1'000'000;

class Worker {
 public:
  Worker(Disk& disk, std::uint64_t blocks) : disk_(disk), blocks_(blocks) {}

  void write(std::uint64_t block) {
    ++generations_[block];
    for (unsigned i = 0; i < kBlock / 8; i += kStride) data[i] = value(block, i);
    if (!disk_.transfer(kWrite, block)) print("CORRUPT block ", block, " is not written");
  }
  void check(std::uint64_t block) {
    if (generations_[block] == 0) return;
    for (unsigned i = 0; i < kBlock / 8; i += kStride) data[i] = 0;
    if (!disk_.transfer(kRead, block)) print("CORRUPT block ", block, " is not read");
    for (unsigned i = 0; i < kBlock / 8; i += kStride) {
      if (data[i] == value(block, i)) continue;
      print("CORRUPT block ", block, " word ", i, " is ", Hex{data[i]}, " not ",
            Hex{value(block, i)});
      return;
    }
  }
  void check_all() {
    for (std::uint64_t block = 0; block < blocks_; ++block) check(block);
    print("verified blocks=", blocks_);
  }

 private:
  static constexpr unsigned kStride = 8;  // an instruction is dear where KVM emulates

  std::uint64_t value(std::uint64_t block, unsigned i) const {
    return generations_[block] << 40 | block << 20 | (i + 1);
  }

  Disk& disk_;
  std::uint64_t blocks_;
  std::uint64_t generations_[kMaxBlocks] = {};
};

}  // namespace

void main() {
  static Disk disk;
  if (!disk.find()) {
    print("CORRUPT no disk");
    return;
  }
  const std::uint64_t asked = parameter("blocks", 64);
  const std::uint64_t blocks = asked < kMaxBlocks ? asked : kMaxBlocks;
  const std::uint64_t tick_ns = parameter("tick", 50) * kMs;
  static Worker worker(disk, blocks);
  Clock clock;
  print("ready blocks=", blocks);
  for (std::uint64_t sequence = 0;; ++sequence) {
    worker.write(sequence % blocks);
    worker.check(sequence * 7 % blocks);
    print("tick ", sequence, " t=", clock.now_ns() / kMs);
    for (int c = typed(); c >= 0; c = typed()) {
      if (c == 'q') power_off();
      if (c == 'v') worker.check_all();
      if (c != 'q' && c != 'v') print("typed ", static_cast<char>(c));
    }
    sleep_ns(tick_ns);
  }
}

}  // namespace guest
