// A guest that writes to its disk, reads back what it wrote, and says so: block after block, each
// filled with what its last visit makes of it. What it read wrongly, or what the device refused, is
// a line "CORRUPT ...". Parameters: tick=MS between two lines, blocks=N of 4 KiB (at most 256).
//
// Typed: v reads and checks every block ("verified blocks=N"), q powers off; the rest is said back.
#include "guest.h"
#include "vmm/boot/layout.h"

namespace guest {
namespace {

constexpr unsigned kQueue = 8;
constexpr unsigned kBlock = 4096;
constexpr unsigned kMaxBlocks = 256;
constexpr std::uint64_t kMs = 1'000'000;

// virtio 1.2: 2.7.5 descriptors, 5.2.6 requests, 4.1.4.3 common configuration
constexpr std::uint16_t kNext = 1, kDeviceWrites = 2;
constexpr std::uint32_t kRead = 0, kWrite = 1;
constexpr unsigned kFeatureSelect = 8, kFeature = 12, kStatus = 20, kQueueSelect = 22,
                   kQueueSize = 24, kQueueEnable = 28, kQueueDescriptors = 32, kQueueDriver = 40,
                   kQueueDevice = 48;
constexpr std::uint8_t kFeaturesOk = 11, kDriverOk = 15;

struct Descriptor {
  std::uint64_t address;
  std::uint32_t length;
  std::uint16_t flags, next;
};
struct Request {
  std::uint32_t type, reserved;
  std::uint64_t sector;
};
alignas(4096) Descriptor descriptors[kQueue];
alignas(64) volatile std::uint16_t available[2 + kQueue + 1];
alignas(64) volatile std::uint16_t used[2 + 4 * kQueue + 1];
alignas(64) Request request;
alignas(64) std::uint64_t data[kBlock / 8];
volatile std::uint8_t result;

void out32(std::uint16_t port, std::uint32_t value) {
  asm volatile("outl %0, %1" : : "a"(value), "Nd"(port) : "memory");
}
std::uint32_t in32(std::uint16_t port) {
  std::uint32_t value;
  asm volatile("inl %1, %0" : "=a"(value) : "Nd"(port) : "memory");
  return value;
}
std::uint32_t read_config(unsigned slot, unsigned offset) {
  out32(0xcf8, 0x80000000u | slot << 11 | (offset & 0xfc));
  return in32(0xcfc);
}
template <typename T>
void store(std::uint64_t address, T value) {
  *reinterpret_cast<volatile T*>(address) = value;
}
void store_address(std::uint64_t at, const volatile void* value) {
  const auto address = reinterpret_cast<std::uint64_t>(value);
  store(at, static_cast<std::uint32_t>(address));
  store(at + 4, static_cast<std::uint32_t>(address >> 32));
}

/// The first virtio-blk function there is, one request at a time.
class Disk {
 public:
  bool find() {
    for (unsigned slot = 1; slot < 32; ++slot) {
      if (read_config(slot, 0) == 0x10421af4) {
        start(slot);
        return true;
      }
    }
    return false;
  }

  /// One block from or to `data`. False when the device says that it failed.
  bool transfer(std::uint32_t type, std::uint64_t block) {
    request = {type, 0, block * (kBlock / 512)};
    result = 0xff;
    const std::uint16_t direction = type == kRead ? kDeviceWrites : 0;
    descriptors[0] = {reinterpret_cast<std::uint64_t>(&request), sizeof request, kNext, 1};
    descriptors[1] = {reinterpret_cast<std::uint64_t>(data), kBlock,
                      static_cast<std::uint16_t>(kNext | direction), 2};
    descriptors[2] = {reinterpret_cast<std::uint64_t>(&result), 1, kDeviceWrites, 0};
    available[2 + sent_ % kQueue] = 0;
    asm volatile("mfence" : : : "memory");
    available[1] = ++sent_;
    asm volatile("mfence" : : : "memory");
    store<std::uint16_t>(notify_, 0);
    while (used[1] != sent_) sleep_ns(kMs / 10);
    asm volatile("" : : : "memory");
    return result == 0;
  }

 private:
  void start(unsigned slot) {
    const std::uint64_t bar = godwit::boot::virtio_bar(slot);
    std::uint64_t common = bar;
    for (unsigned at = read_config(slot, 0x34) & 0xfc; at != 0;) {  // 4.1.4
      const std::uint32_t head = read_config(slot, at);
      if ((head & 0xff) == 0x09 && head >> 24 == 1) common = bar + read_config(slot, at + 8);
      if ((head & 0xff) == 0x09 && head >> 24 == 2) notify_ = bar + read_config(slot, at + 8);
      at = head >> 8 & 0xfc;
    }
    out32(0xcf8, 0x80000000u | slot << 11 | 4);
    out32(0xcfc, 6);  // memory and bus master
    store<std::uint8_t>(common + kStatus, 0);
    store<std::uint8_t>(common + kStatus, 3);
    store<std::uint32_t>(common + kFeatureSelect, 1);
    store<std::uint32_t>(common + kFeature, 1);  // VIRTIO_F_VERSION_1, and nothing else
    store<std::uint8_t>(common + kStatus, kFeaturesOk);
    store<std::uint16_t>(common + kQueueSelect, 0);
    store<std::uint16_t>(common + kQueueSize, kQueue);
    store_address(common + kQueueDescriptors, descriptors);
    store_address(common + kQueueDriver, available);
    store_address(common + kQueueDevice, used);
    store<std::uint16_t>(common + kQueueEnable, 1);
    store<std::uint8_t>(common + kStatus, kDriverOk);
  }

  std::uint64_t notify_ = 0;
  std::uint16_t sent_ = 0;
};

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
