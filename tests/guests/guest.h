// What our guests stand on: a console, time, sleep, ACPI, the command line. Freestanding, general
// registers only, one or two vCPUs. Where KVM emulates, an instruction takes 0.5 us and a word of a
// string instruction 0.9 us.
#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>

namespace guest {

// -- instructions
inline void out8(std::uint16_t port, std::uint8_t value) {
  asm volatile("outb %0, %1" : : "a"(value), "Nd"(port) : "memory");
}
inline std::uint8_t in8(std::uint16_t port) {
  std::uint8_t value;
  asm volatile("inb %1, %0" : "=a"(value) : "Nd"(port) : "memory");
  return value;
}
inline void write_msr(std::uint32_t msr, std::uint64_t value) {
  asm volatile("wrmsr" : : "c"(msr), "a"(value), "d"(value >> 32) : "memory");
}
inline std::uint64_t read_tsc() {
  std::uint32_t low, high;
  asm volatile("lfence; rdtsc" : "=a"(low), "=d"(high) : : "memory");
  return std::uint64_t{high} << 32 | low;
}
struct Cpuid {
  std::uint32_t eax, ebx, ecx, edx;
};
inline Cpuid cpuid(std::uint32_t leaf) {
  Cpuid r;
  asm volatile("cpuid" : "=a"(r.eax), "=b"(r.ebx), "=c"(r.ecx), "=d"(r.edx) : "a"(leaf), "c"(0));
  return r;
}
[[noreturn]] inline void halt() {
  for (;;) asm volatile("cli; hlt");
}

// -- console
struct Hex {
  std::uint64_t value;
};

/// A line being built; longer ones are cut.
class Line {
 public:
  void put(char c) {
    if (size_ < sizeof text_ - 1) text_[size_++] = c;
  }
  void put(const char* text) {
    while (*text != 0) put(*text++);
  }
  void put(std::unsigned_integral auto value) { put_decimal(value); }
  void put(Hex number);
  /// Prints it in one piece, whichever other vCPU prints at that time.
  void end();

 private:
  void put_decimal(std::uint64_t value);
  char text_[160];
  std::size_t size_ = 0;
};

/// One line on the console: texts, characters, unsigned numbers, Hex.
template <typename... Parts>
void print(const Parts&... parts) {
  Line line;
  (line.put(parts), ...);
  line.end();
}

/// A byte typed at the console, or -1.
int typed();

// -- time
/// kvmclock of this vCPU, or the TSC taken for 1 GHz where there is none.
class Clock {
 public:
  /// For the calling vCPU; `this` must stay where it is.
  Clock();
  std::uint64_t now_ns();
  bool is_kvmclock() const { return kvmclock_; }
  /// Where the host's TSC is not stable (an emulated one), kvmclock jitters and its readers must
  /// clamp it: KVM's Documentation/virt/kvm/x86/msr.rst, flag bit 0 of the page.
  bool is_stable() const { return kvmclock_ && (page_.flags & 1) != 0; }

 private:
  struct PvClock {  // KVM's Documentation/virt/kvm/x86/msr.rst
    volatile std::uint32_t version;
    std::uint32_t pad0;
    volatile std::uint64_t tsc_timestamp;
    volatile std::uint64_t system_time;
    volatile std::uint32_t tsc_to_system_mul;
    volatile std::int8_t tsc_shift;
    volatile std::uint8_t flags;
    std::uint8_t pad[2];
  };
  alignas(64) PvClock page_ = {};
  bool kvmclock_;
};

/// HLT until the local APIC's timer fires, `ns` from now (at most 4 seconds).
void sleep_ns(std::uint64_t ns);

// -- the machine
/// The number behind "NAME=" on the command line, or `fallback`.
std::uint64_t parameter(const char* name, std::uint64_t fallback);
/// Through the FADT's sleep control register.
[[noreturn]] void power_off();
/// Through the FADT's reset register.
[[noreturn]] void reset();
/// An interrupt with an empty interrupt table.
[[noreturn]] void triple_fault();
/// vCPUs that the MADT lists as usable.
unsigned cpus_present();
/// Lets the second vCPU of the MADT run `entry`. False if there is none or it does not come.
bool start_second_cpu(void (*entry)());

/// What a guest is: its program. The machine halts when it returns.
void main();

}  // namespace guest
