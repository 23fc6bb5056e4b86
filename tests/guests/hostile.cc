// A guest that attacks its devices: random descriptors, rings, registers, PCI configuration, ports
// and MMIO, for a bounded time. What a device may write to lies at or above kPlayground, so that
// none of it hits this program. Ends by itself: "hostile: done ..." and power-off.
//
// Parameters: seed=N, ms=N how long, ram=MiB of RAM.
#include "guest.h"

namespace guest {
namespace {

constexpr std::uint64_t kMiB = 1 << 20;
constexpr std::uint64_t kPlayground = 16 * kMiB;
constexpr std::uint64_t kBarBase = 0xc0000000;  // where BARs lie at reset: boot/layout.h
constexpr std::uint64_t kBarSize = 0x10000;
constexpr unsigned kSlots = 32;
constexpr unsigned kRing = 64;
constexpr std::uint8_t kNeedsReset = 0x40;

void out32(std::uint16_t port, std::uint32_t value) {
  asm volatile("outl %0, %1" : : "a"(value), "Nd"(port) : "memory");
}
std::uint32_t in32(std::uint16_t port) {
  std::uint32_t value;
  asm volatile("inl %1, %0" : "=a"(value) : "Nd"(port) : "memory");
  return value;
}
void out16(std::uint16_t port, std::uint16_t value) {
  asm volatile("outw %0, %1" : : "a"(value), "Nd"(port) : "memory");
}

template <typename T>
void store(std::uint64_t address, T value) {
  *reinterpret_cast<volatile T*>(address) = value;
}
template <typename T>
T load(std::uint64_t address) {
  return *reinterpret_cast<volatile T*>(address);
}

std::uint32_t read_config(unsigned slot, unsigned offset) {
  out32(0xcf8, 0x80000000u | slot << 11 | (offset & 0xfc));
  return in32(0xcfc);
}
void write_config(unsigned slot, unsigned offset, std::uint32_t value) {
  out32(0xcf8, 0x80000000u | slot << 11 | (offset & 0xfc));
  out32(0xcfc, value);
}

/// A virtio function and where its structures lie in its BAR.
struct Target {
  unsigned slot;
  std::uint64_t bar;
  std::uint32_t common, notify, multiplier, table;
  std::uint32_t id;      // virtio 1.2, 5
  std::uint64_t broken;  // times that it was seen to need a reset
};

class Attacker {
 public:
  explicit Attacker(std::uint64_t seed, std::uint64_t ram_end) : state_(seed | 1), end_(ram_end) {
    for (unsigned slot = 1; slot < kSlots; ++slot) {
      if ((read_config(slot, 0) & 0xffff) == 0x1af4) add(slot);
    }
  }

  unsigned targets() const { return count_; }
  const Target& target(unsigned index) const { return targets_[index]; }

  void step() {
    const auto what = pick(16);
    if (count_ == 0 || what < 3) return any_port();
    Target& target = targets_[pick(count_)];
    if (what < 7) return attack_rings(target);
    if (what < 12) return any_register(target);
    if (what < 14) return any_config(target);
    if (what < 15) return any_mmio();
    restore(target);
  }

 private:
  std::uint64_t random() {  // xorshift64
    state_ ^= state_ << 13;
    state_ ^= state_ >> 7;
    state_ ^= state_ << 17;
    return state_;
  }
  std::uint64_t pick(std::uint64_t count) { return (random() >> 16) % count; }

  void add(unsigned slot) {
    const std::uint32_t id = (read_config(slot, 0) >> 16) - 0x1040;
    Target target{slot, kBarBase + slot * kBarSize, 0, 0, 0, 0, id, 0};
    for (unsigned at = read_config(slot, 0x34) & 0xfc; at != 0;) {
      const std::uint32_t head = read_config(slot, at);
      if ((head & 0xff) == 0x11) target.table = read_config(slot, at + 4) & ~7u;
      if ((head & 0xff) == 0x09) {
        const std::uint32_t offset = read_config(slot, at + 8);
        if (head >> 24 == 1) target.common = offset;
        if (head >> 24 == 2) {
          target.notify = offset;
          target.multiplier = read_config(slot, at + 16);
        }
      }
      at = head >> 8 & 0xfc;
    }
    targets_[count_++] = target;
    restore(target);
  }

  /// As the platform had set it up.
  void restore(const Target& target) {
    write_config(target.slot, 0x10, static_cast<std::uint32_t>(target.bar));
    write_config(target.slot, 0x14, 0);
    write_config(target.slot, 4, 6);
  }

  /// In the playground, at its edge, outside RAM, or nowhere.
  std::uint64_t address() {
    switch (pick(8)) {
      case 0:
        return end_ - pick(64);
      case 1:
        return end_ + pick(kMiB);
      case 2:
        return kBarBase + pick(0x400000);
      case 3:
        return random() | std::uint64_t{1} << 40;
      default:
        return kPlayground + pick(end_ - kPlayground);
    }
  }

  void fill_ring(std::uint64_t ring) {
    for (unsigned i = 0; i < kRing; ++i) {
      const std::uint64_t at = ring + 16 * i;
      store<std::uint64_t>(at, pick(6) == 0 ? ring + 16 * pick(kRing) : address());
      store<std::uint32_t>(at + 8,
                           static_cast<std::uint32_t>(pick(4) == 0 ? random() : pick(8192)));
      store<std::uint16_t>(at + 12, static_cast<std::uint16_t>(pick(16) == 0 ? random() : pick(8)));
      store<std::uint16_t>(at + 14,
                           static_cast<std::uint16_t>(pick(16) == 0 ? random() : pick(kRing)));
    }
    const std::uint64_t available = ring + 16 * kRing;
    for (unsigned i = 0; i < kRing; ++i) {
      store<std::uint16_t>(available + 4 + 2 * i, static_cast<std::uint16_t>(pick(kRing + 2)));
    }
    store<std::uint16_t>(available, static_cast<std::uint16_t>(pick(2)));
    store<std::uint16_t>(available + 2,
                         static_cast<std::uint16_t>(pick(8) == 0 ? random() : pick(kRing)));
  }

  void attack_rings(Target& target) {
    restore(target);
    const std::uint64_t common = target.bar + target.common;
    store<std::uint8_t>(common + 20, 0);
    store<std::uint8_t>(common + 20, 1);
    store<std::uint8_t>(common + 20, 3);
    store<std::uint32_t>(common + 0, 0);
    const std::uint32_t offered = load<std::uint32_t>(common + 4);
    store<std::uint32_t>(common + 8, 0);
    store<std::uint32_t>(common + 12,
                         offered & (pick(2) == 0 ? ~0u : static_cast<std::uint32_t>(random())));
    store<std::uint32_t>(common + 8, 1);
    store<std::uint32_t>(common + 12, pick(8) == 0 ? 0 : 1);  // VIRTIO_F_VERSION_1
    store<std::uint8_t>(common + 20, 11);
    const unsigned queues = load<std::uint16_t>(common + 18);
    for (unsigned queue = 0; queue < queues && queue < 4; ++queue) {
      const std::uint64_t ring =
          (kPlayground + pick(end_ - kPlayground - 0x10000)) & ~std::uint64_t{15};
      fill_ring(ring);
      store<std::uint16_t>(common + 22, static_cast<std::uint16_t>(queue));
      store<std::uint16_t>(common + 24,
                           static_cast<std::uint16_t>(pick(8) == 0 ? random() : kRing));
      store_address(common + 32, pick(12) == 0 ? address() : ring);
      store_address(common + 40, pick(12) == 0 ? address() : ring + 16 * kRing);
      store_address(common + 48, pick(12) == 0 ? address() : ring + 24 * kRing);
      store<std::uint16_t>(common + 28, 1);
    }
    store<std::uint8_t>(common + 20, 15);
    for (unsigned queue = 0; queue < queues && queue < 4; ++queue) {
      store<std::uint16_t>(target.bar + target.notify + target.multiplier * queue,
                           static_cast<std::uint16_t>(queue));
    }
    for (unsigned i = 0; i < 50; ++i) {
      if ((load<std::uint8_t>(common + 20) & kNeedsReset) == 0) continue;
      ++target.broken;
      break;
    }
  }

  void store_address(std::uint64_t at, std::uint64_t value) {
    store<std::uint32_t>(at, static_cast<std::uint32_t>(value));
    store<std::uint32_t>(at + 4, static_cast<std::uint32_t>(value >> 32));
  }

  /// Nothing that lets a device write below the playground, and no interrupt but a fixed one: an
  /// NMI would end this program.
  void any_register(const Target& target) {
    std::uint64_t offset = pick(4) == 0 ? pick(kBarSize) : target.common + pick(64);
    if (pick(4) == 0) offset = target.table + pick(64);
    const std::uint64_t at = target.bar + offset;
    auto value = static_cast<std::uint32_t>(random());
    const bool addresses = offset >= target.common + 32u && offset < target.common + 56u;
    const bool messages = offset >= target.table && offset < target.table + 0x1000u;
    if (addresses) {
      store<std::uint32_t>(at & ~std::uint64_t{3}, value | static_cast<std::uint32_t>(kPlayground));
      return;
    }
    if (messages) {
      store<std::uint32_t>(at & ~std::uint64_t{3}, value & ~0x700u);
      return;
    }
    switch (pick(6)) {
      case 0:
        load<std::uint8_t>(at);
        break;
      case 1:
        load<std::uint32_t>(at & ~std::uint64_t{3});
        break;
      case 2:
        load<std::uint64_t>(at & ~std::uint64_t{7});
        break;
      case 3:
        store<std::uint8_t>(at, static_cast<std::uint8_t>(value));
        break;
      case 4:
        store<std::uint16_t>(at & ~std::uint64_t{1}, static_cast<std::uint16_t>(value));
        break;
      default:
        store<std::uint32_t>(at & ~std::uint64_t{3}, value);
        break;
    }
  }

  void any_config(const Target& target) {
    const unsigned slot = pick(4) == 0 ? static_cast<unsigned>(pick(kSlots)) : target.slot;
    const auto offset = static_cast<unsigned>(pick(256));
    if (pick(2) == 0) {
      read_config(slot, offset);
      return;
    }
    // A BAR anywhere but over this program.
    const auto value = static_cast<std::uint32_t>(random());
    write_config(slot, offset, offset / 4 == 4 ? value | 0x40000000u : value);
  }

  void any_mmio() {
    const std::uint64_t at = kBarBase + pick(0x3ec00000);
    if (pick(2) == 0) {
      load<std::uint32_t>(at);
    } else {
      store<std::uint32_t>(
          at, static_cast<std::uint32_t>(random()) | static_cast<std::uint32_t>(kPlayground));
    }
  }

  /// Not what ends or reboots the machine, and not the console's data.
  static bool spared(std::uint64_t port) {
    return (port >= 0x5fd && port < 0x603) || (port >= 0x61 && port < 0x65) ||
           (port >= 0x3f5 && port < 0x400) || (port >= 0xcf5 && port < 0xd00);
  }

  void any_port() {
    static constexpr std::uint16_t kKnown[] = {0x505, 0x603, 0x70, 0x80, 0x92, 0x2f8};
    const std::uint64_t port = pick(2) == 0 ? pick(0x10000) : kKnown[pick(6)];
    if (spared(port)) return;
    const auto where = static_cast<std::uint16_t>(port);
    switch (pick(5)) {
      case 0:
        in8(where);
        break;
      case 1:
        in32(where);
        break;
      case 2:
        out16(where, static_cast<std::uint16_t>(random()));
        break;
      case 3:
        out32(where, static_cast<std::uint32_t>(random()));
        break;
      default:
        out8(where, static_cast<std::uint8_t>(random()));
        break;
    }
  }

  std::uint64_t state_;
  std::uint64_t end_;
  Target targets_[kSlots] = {};
  unsigned count_ = 0;
};

}  // namespace
}  // namespace guest

void guest::main() {
  Clock clock;
  const std::uint64_t end = clock.now_ns() + parameter("ms", 1000) * 1'000'000;
  Attacker attacker(parameter("seed", 1) * 0x9e3779b97f4a7c15u, parameter("ram", 64) << 20);
  print("hostile: ", attacker.targets(), " virtio devices");
  std::uint64_t steps = 0;
  do {
    for (unsigned i = 0; i < 16; ++i, ++steps) attacker.step();
  } while (clock.now_ns() < end);
  for (unsigned i = 0; i < attacker.targets(); ++i) {
    print("hostile: device ", attacker.target(i).id, " needs reset ", attacker.target(i).broken);
  }
  print("hostile: done, ", steps, " steps");
  power_off();
}
