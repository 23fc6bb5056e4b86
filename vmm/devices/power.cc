#include "vmm/devices/power.h"

#include <utility>

#include "vmm/boot/layout.h"
#include "vmm/devices/access.h"

namespace godwit::devices {
namespace {

constexpr std::uint32_t kStateVersion = 1;
constexpr std::uint64_t kSleepControl = boot::kSleepControlPort - boot::kPowerPort;
constexpr std::uint64_t kReset = boot::kResetPort - boot::kPowerPort;
constexpr std::uint64_t kEvents = boot::kEventsPort - boot::kPowerPort;
constexpr std::uint8_t kSleepTypeMask = 0x1c;

}  // namespace

Power::Power(InterruptLine& events, std::function<void()> power_off, std::function<void()> reset)
    : interrupt_(events), power_off_(std::move(power_off)), reset_(std::move(reset)) {}

void Power::press_button() { announce(boot::kEventPowerButton); }

void Power::announce(std::uint8_t event) {
  const std::lock_guard lock(mutex_);
  events_ |= event;
  if (!quiesced_) interrupt_.trigger();
}

void Power::read(std::uint64_t offset, std::span<std::byte> data) {
  fill_ones(data);
  if (data.size() != 1 || offset >= kPorts) return;
  const std::lock_guard lock(mutex_);
  data[0] = offset == kEvents ? std::byte{std::exchange(events_, 0)} : std::byte{0};
}

void Power::write(std::uint64_t offset, std::span<const std::byte> data) {
  if (data.size() != 1) return;
  const auto value = std::to_integer<std::uint8_t>(data[0]);
  // Not under the lock: the callbacks belong to Machine, which may be waiting to quiesce us.
  if (offset == kSleepControl &&
      (value & (kSleepTypeMask | boot::kSleepEnable)) == boot::kPowerOffValue) {
    power_off_();
  } else if (offset == kReset && value == boot::kResetValue) {
    reset_();
  }
}

void Power::quiesce() {
  const std::lock_guard lock(mutex_);
  quiesced_ = true;
}

void Power::resume() {
  const std::lock_guard lock(mutex_);
  // An event not read yet is announced again: the edge may not have survived a move.
  quiesced_ = false;
  if (events_ != 0) interrupt_.trigger();
}

void Power::save(vmm::StateWriter& writer, std::uint32_t instance) const {
  const std::lock_guard lock(mutex_);
  writer.begin(kind(), kStateVersion, instance);
  writer.put(events_);
}

void Power::restore(vmm::StateReader& reader, std::uint32_t instance) {
  const std::lock_guard lock(mutex_);
  reader.begin(kind(), kStateVersion, instance);
  const auto events = reader.get<std::uint8_t>();
  if ((events & ~(boot::kEventPowerButton | boot::kEventGeneration)) != 0)
    reader.fail("unknown event");
  events_ = events;
}

KeyboardReset::KeyboardReset(std::function<void()> reset) : reset_(std::move(reset)) {}

void KeyboardReset::read(std::uint64_t, std::span<std::byte> data) { store_le(data, 0); }

void KeyboardReset::write(std::uint64_t, std::span<const std::byte> data) {
  if (load_le(data) == boot::kKeyboardResetValue) reset_();
}

void KeyboardReset::save(vmm::StateWriter& writer, std::uint32_t instance) const {
  writer.begin(kind(), kStateVersion, instance);
}

void KeyboardReset::restore(vmm::StateReader& reader, std::uint32_t instance) {
  reader.begin(kind(), kStateVersion, instance);
}

}  // namespace godwit::devices
