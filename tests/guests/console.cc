// The serial port and the clock.
#include "guest.h"
#include "vmm/boot/layout.h"

namespace guest {
namespace {

constexpr std::uint16_t kPort = godwit::boot::kSerialPort;
constexpr std::uint16_t kLineStatus = kPort + 5;
constexpr std::uint8_t kDataReady = 1;

std::uint32_t console_lock;

void lock(std::uint32_t& word) {
  while (__atomic_exchange_n(&word, 1u, __ATOMIC_ACQUIRE) != 0) asm volatile("pause");
}
void unlock(std::uint32_t& word) { __atomic_store_n(&word, 0u, __ATOMIC_RELEASE); }

}  // namespace

void Line::put_decimal(std::uint64_t value) {
  char digits[20];
  unsigned count = 0;
  do {
    digits[count++] = static_cast<char>('0' + value % 10);
    value /= 10;
  } while (value != 0);
  while (count != 0) put(digits[--count]);
}

void Line::put(Hex number) {
  for (int shift = 60; shift >= 0; shift -= 4) put("0123456789abcdef"[number.value >> shift & 15]);
}

void Line::end() {
  text_[size_++] = '\n';
  const char* at = text_;
  lock(console_lock);
  // The transmitter of a virtual UART is always ready: one string instruction is a whole line.
  asm volatile("rep outsb" : "+S"(at), "+c"(size_) : "d"(kPort) : "memory");
  unlock(console_lock);
}

int typed() { return (in8(kLineStatus) & kDataReady) != 0 ? in8(kPort) : -1; }

Clock::Clock() {
  constexpr std::uint32_t kSystemTimeNew = 0x4b56'4d01;
  constexpr std::uint32_t kHasClock2 = 1 << 3;
  const Cpuid kvm = cpuid(0x4000'0000);
  kvmclock_ = kvm.ebx == 0x4b4d'564b && (cpuid(0x4000'0001).eax & kHasClock2) != 0;  // "KVMK"
  if (kvmclock_) write_msr(kSystemTimeNew, reinterpret_cast<std::uint64_t>(&page_) | 1);
}

std::uint64_t Clock::now_ns() {
  if (!kvmclock_) return read_tsc();
  for (;;) {
    const std::uint32_t version = page_.version;
    const std::uint64_t start = page_.system_time;
    const std::uint64_t stamp = page_.tsc_timestamp;
    const std::uint64_t factor = page_.tsc_to_system_mul;
    const int shift = page_.tsc_shift;
    std::uint64_t passed = read_tsc() - stamp;
    passed = shift >= 0 ? passed << shift : passed >> -shift;
    std::uint64_t high, low;
    asm("mulq %3" : "=d"(high), "=a"(low) : "a"(passed), "rm"(factor) : "cc");
    if ((version & 1) == 0 && version == page_.version) return start + (high << 32 | low >> 32);
  }
}

}  // namespace guest
