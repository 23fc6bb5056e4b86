#include "vmm/devices/serial.h"

#include <algorithm>
#include <type_traits>
#include <utility>
#include <vector>

#include "vmm/devices/access.h"

namespace godwit::devices {
namespace {

constexpr std::uint32_t kStateVersion = 1;

// Register offsets; with DLAB set, 0 and 1 are the divisor.
enum : std::uint64_t {
  kData = 0,
  kIer = 1,
  kIirFcr = 2,
  kLcr = 3,
  kMcr = 4,
  kLsr = 5,
  kMsr = 6,
  kScr = 7
};

constexpr std::uint8_t kIerReceived = 0x01, kIerThrEmpty = 0x02, kIerLine = 0x04, kIerModem = 0x08;
constexpr std::uint8_t kIirNone = 0x01, kIirLine = 0x06, kIirReceived = 0x04, kIirTimeout = 0x0c,
                       kIirThrEmpty = 0x02, kIirModem = 0x00, kIirFifos = 0xc0;
constexpr std::uint8_t kFcrEnable = 0x01, kFcrClearReceive = 0x02, kFcrTrigger = 0xc0;
constexpr std::uint8_t kLcrDlab = 0x80;
constexpr std::uint8_t kMcrDtr = 0x01, kMcrRts = 0x02, kMcrOut1 = 0x04, kMcrOut2 = 0x08,
                       kMcrLoop = 0x10, kMcrMask = 0x1f;
constexpr std::uint8_t kLsrReady = 0x01, kLsrOverrun = 0x02, kLsrThrEmpty = 0x20, kLsrIdle = 0x40;
constexpr std::uint8_t kMsrCts = 0x10, kMsrDsr = 0x20, kMsrRi = 0x40, kMsrDcd = 0x80;

}  // namespace

Serial::Serial(InterruptLine& interrupt, Sink output)
    : interrupt_(interrupt), output_(std::move(output)) {}

std::size_t Serial::input(std::span<const std::byte> bytes) {
  const std::lock_guard lock(mutex_);
  if (quiesced_) return 0;
  const std::size_t taken = std::min(bytes.size(), kMaxWaiting - waiting_.size());
  for (const std::byte byte : bytes.first(taken)) {
    waiting_.push_back(std::to_integer<std::uint8_t>(byte));
  }
  refill();
  // An edge, even when the line is high already: should the guest have missed the last one, the
  // next key still gets through.
  line_ = line_ && taken == 0;
  update_line();
  return taken;
}

void Serial::read(std::uint64_t offset, std::span<std::byte> data) {
  fill_ones(data);
  if (data.size() != 1 || offset >= kPorts) return;
  const std::lock_guard lock(mutex_);
  data[0] = std::byte{read_register(offset)};
  update_line();
}

void Serial::write(std::uint64_t offset, std::span<const std::byte> data) {
  if (data.size() != 1 || offset >= kPorts) return;
  const std::lock_guard lock(mutex_);
  write_register(offset, std::to_integer<std::uint8_t>(data[0]));
  update_line();
}

std::uint8_t Serial::read_register(std::uint64_t offset) {
  switch (offset) {
    case kData:
      return dlab() ? registers_.dll : receive();
    case kIer:
      return dlab() ? registers_.dlm : registers_.ier;
    case kIirFcr: {
      const std::uint8_t cause = iir();
      if (cause == kIirThrEmpty) registers_.thr_empty = 0;  // reading IIR acknowledges it
      return static_cast<std::uint8_t>(cause | (fifos_enabled() ? kIirFifos : 0));
    }
    case kLcr:
      return registers_.lcr;
    case kMcr:
      return registers_.mcr;
    case kLsr: {
      const std::uint8_t status = lsr();
      registers_.overrun = 0;
      return status;
    }
    case kMsr:
      return static_cast<std::uint8_t>(modem_lines() | std::exchange(registers_.msr_delta, 0));
    default:
      return registers_.scr;
  }
}

void Serial::write_register(std::uint64_t offset, std::uint8_t value) {
  switch (offset) {
    case kData:
      if (dlab()) {
        registers_.dll = value;
      } else {
        transmit(value);
      }
      break;
    case kIer:
      if (dlab()) {
        registers_.dlm = value;
        break;
      }
      value &= 0x0f;
      // Enabling the interrupt while THR is empty, as it always is here, raises it; Linux tests
      // that.
      if ((value & ~registers_.ier & kIerThrEmpty) != 0) registers_.thr_empty = 1;
      registers_.ier = value;
      break;
    case kIirFcr:
      write_fcr(value);
      break;
    case kLcr:
      registers_.lcr = value;
      break;
    case kMcr:
      write_mcr(value);
      break;
    case kScr:
      registers_.scr = value;
      break;
    default:  // LSR and MSR: writes are for factory tests
      break;
  }
}

std::uint8_t Serial::receive() {
  if (fifo_.empty()) return 0;
  const std::uint8_t value = fifo_.front();
  fifo_.pop_front();
  refill();
  return value;
}

void Serial::transmit(std::uint8_t value) {
  if (!loopback()) {
    const std::byte byte{value};
    if (output_) output_({&byte, 1});
  } else if (fifo_.size() < (fifos_enabled() ? kFifoSize : 1)) {
    fifo_.push_back(value);
  } else {
    registers_.overrun = 1;
  }
  registers_.thr_empty = 1;
}

void Serial::write_fcr(std::uint8_t value) {
  if (((value ^ registers_.fcr) & kFcrEnable) != 0 || (value & kFcrClearReceive) != 0)
    fifo_.clear();
  // Without the enable bit the other bits are not programmed.
  registers_.fcr = (value & kFcrEnable) != 0 ? value & (kFcrEnable | kFcrTrigger) : 0;
  refill();
}

void Serial::write_mcr(std::uint8_t value) {
  const std::uint8_t before = modem_lines();
  registers_.mcr = value & kMcrMask;
  const auto changed = static_cast<std::uint8_t>(before ^ modem_lines());
  auto delta = static_cast<std::uint8_t>((changed & (kMsrCts | kMsrDsr | kMsrDcd)) >> 4);
  if ((before & changed & kMsrRi) != 0)
    delta |= kMsrRi >> 4;  // trailing edge of the ring indicator
  registers_.msr_delta |= delta;
  refill();
}

std::uint8_t Serial::lsr() const {
  return static_cast<std::uint8_t>(kLsrThrEmpty | kLsrIdle | (fifo_.empty() ? 0 : kLsrReady) |
                                   (registers_.overrun != 0 ? kLsrOverrun : 0));
}

std::uint8_t Serial::modem_lines() const {
  if (!loopback()) return kMsrCts | kMsrDsr | kMsrDcd;  // a terminal is always there
  const std::uint8_t mcr = registers_.mcr;
  return static_cast<std::uint8_t>(
      ((mcr & kMcrRts) != 0 ? kMsrCts : 0) | ((mcr & kMcrDtr) != 0 ? kMsrDsr : 0) |
      ((mcr & kMcrOut1) != 0 ? kMsrRi : 0) | ((mcr & kMcrOut2) != 0 ? kMsrDcd : 0));
}

// The pending interrupt of highest priority: PC16550D, table IV.
std::uint8_t Serial::iir() const {
  const std::uint8_t ier = registers_.ier;
  if ((ier & kIerLine) != 0 && registers_.overrun != 0) return kIirLine;
  if ((ier & kIerReceived) != 0 && !fifo_.empty()) {
    // Below the trigger level the guest would get it as a character time-out, four character times
    // after the last byte; here no time passes.
    return fifo_.size() >= trigger_level() ? kIirReceived : kIirTimeout;
  }
  if ((ier & kIerThrEmpty) != 0 && registers_.thr_empty != 0) return kIirThrEmpty;
  if ((ier & kIerModem) != 0 && registers_.msr_delta != 0) return kIirModem;
  return kIirNone;
}

bool Serial::fifos_enabled() const { return (registers_.fcr & kFcrEnable) != 0; }
bool Serial::loopback() const { return (registers_.mcr & kMcrLoop) != 0; }
bool Serial::dlab() const { return (registers_.lcr & kLcrDlab) != 0; }

std::size_t Serial::trigger_level() const {
  constexpr std::array<std::size_t, 4> kLevels = {1, 4, 8, 14};
  return fifos_enabled() ? kLevels[registers_.fcr >> 6] : 1;
}

void Serial::refill() {
  if (loopback()) return;  // the receiver is disconnected from the line
  const std::size_t room = fifos_enabled() ? kFifoSize : 1;
  while (fifo_.size() < room && !waiting_.empty()) {
    fifo_.push_back(waiting_.front());
    waiting_.pop_front();
  }
}

void Serial::update_line() {
  const bool level = iir() != kIirNone;
  const bool rose = level && !line_;
  line_ = level;
  if (rose) interrupt_.trigger();
}

void Serial::quiesce() {
  const std::lock_guard lock(mutex_);
  quiesced_ = true;
}

void Serial::resume() {
  const std::lock_guard lock(mutex_);
  quiesced_ = false;
  // The edge may have been on its way when the state was taken. One too many does no harm.
  if (std::exchange(restored_, false) && line_) interrupt_.trigger();
}

void Serial::save(vmm::StateWriter& writer, std::uint32_t instance) const {
  static_assert(std::has_unique_object_representations_v<Registers>);
  const std::lock_guard lock(mutex_);
  writer.begin(kind(), kStateVersion, instance);
  writer.put(registers_);
  const std::vector<std::uint8_t> fifo(fifo_.begin(), fifo_.end());
  writer.put_array(std::span<const std::uint8_t>(fifo));
  const std::vector<std::uint8_t> waiting(waiting_.begin(), waiting_.end());
  writer.put_array(std::span<const std::uint8_t>(waiting));
}

void Serial::restore(vmm::StateReader& reader, std::uint32_t instance) {
  const std::lock_guard lock(mutex_);
  reader.begin(kind(), kStateVersion, instance);
  auto registers = reader.get<Registers>();
  const auto fifo = reader.get_array<std::uint8_t>(kFifoSize);
  const auto waiting = reader.get_array<std::uint8_t>(kMaxWaiting);
  if ((registers.ier & 0xf0) != 0 || (registers.mcr & ~kMcrMask) != 0 || registers.overrun > 1 ||
      registers.msr_delta > 0x0f || registers.thr_empty > 1) {
    reader.fail("registers hold impossible values");
  }
  registers_ = registers;
  fifo_.assign(fifo.begin(), fifo.end());
  waiting_.assign(waiting.begin(), waiting.end());
  line_ = iir() != kIirNone;
  restored_ = true;
}

}  // namespace godwit::devices
