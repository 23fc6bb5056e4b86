#include "vmm/devices/virtio/pci_transport.h"

#include <utility>

#include "vmm/devices/access.h"

namespace godwit::devices {
namespace {

constexpr std::uint32_t kStateVersion = 1;

// virtio 1.2, 4.1.2
constexpr std::uint16_t kVendor = 0x1af4, kModernDevice = 0x1040;
constexpr std::uint8_t kRevision = 1;

// 4.1.4: capabilities, and where they lie in the BAR.
constexpr std::uint8_t kVendorCapability = 0x09;
constexpr std::uint8_t kCapCommon = 1, kCapNotify = 2, kCapIsr = 3, kCapDevice = 4, kCapWindow = 5;
constexpr std::uint32_t kCommonOffset = 0x0000, kIsrOffset = 0x1000, kDeviceOffset = 0x2000,
                        kNotifyOffset = 0x3000, kTableOffset = 0x4000, kPendingOffset = 0x5000,
                        kRegionSize = 0x1000;
constexpr std::uint32_t kNotifyMultiplier = 4;

// A capability of 4.1.4 without its first two bytes, which ConfigSpace writes.
struct [[gnu::packed]] CapabilityBody {
  std::uint8_t length;
  std::uint8_t type;
  std::uint8_t bar = 0;
  std::uint8_t id = 0;
  std::uint8_t padding[2] = {};
  std::uint32_t offset = 0;
  std::uint32_t size = 0;
  std::uint32_t extra = 0;  // notify: multiplier; window: data
};
static_assert(sizeof(CapabilityBody) == 18);
constexpr unsigned kWindowBar = 4, kWindowOffset = 8, kWindowLength = 12, kWindowData = 16;

template <typename T>
std::span<const std::uint8_t> raw(const T& value, std::size_t size = sizeof(T)) {
  return {reinterpret_cast<const std::uint8_t*>(&value), size};
}

constexpr std::uint8_t kDriverOk = 0x04, kFeaturesOk = 0x08, kNeedsReset = 0x40, kStatusBits = 0xcf;
constexpr std::uint8_t kIsrQueue = 1, kIsrConfig = 2;

}  // namespace

VirtioPci::VirtioPci(VirtioBackend& backend, memory::GuestMemory& memory, MsiVectorFactory& vectors,
                     DoorbellRegistry& doorbells, std::uint64_t bar_address)
    : backend_(backend),
      doorbells_(doorbells),
      bar_address_(bar_address),
      config_({.vendor = kVendor,
               .device = static_cast<std::uint16_t>(kModernDevice + backend.device_id()),
               .subsystem_vendor = kVendor,
               .subsystem = static_cast<std::uint16_t>(0x40 + backend.device_id()),
               .class_code = backend.pci_class(),
               .revision = kRevision}),
      msix_(static_cast<unsigned>(backend.queue_sizes().size() + 1), vectors),
      vectors_(backend.queue_sizes().size() + 1) {
  config_.set_bar(bar_address, kBarSize);
  add_capabilities();
  for (const std::uint16_t size : backend.queue_sizes()) {
    queues_.push_back(std::make_unique<Queue>(memory, size));
  }
  for (auto& vector : vectors_) vector = kNoVector;
  for (std::size_t i = 0; i < queues_.size(); ++i) {
    doorbells_.add(doorbell_address(i), queues_[i]->doorbell.fd());
  }
}

VirtioPci::~VirtioPci() {
  backend_.stop();
  for (std::size_t i = 0; i < queues_.size(); ++i) {
    doorbells_.remove(doorbell_address(i), queues_[i]->doorbell.fd());
  }
}

std::uint64_t VirtioPci::doorbell_address(std::size_t queue) const {
  return bar_address_ + kNotifyOffset + kNotifyMultiplier * queue;
}

void VirtioPci::add_capabilities() {
  const auto add = [this](CapabilityBody body, std::uint8_t length) {
    body.length = length;
    return config_.add_capability(kVendorCapability, raw(body, length - 2U));
  };
  const auto vectors = static_cast<std::uint16_t>(vectors_.size() - 1);
  struct [[gnu::packed]] {
    std::uint16_t control;
    std::uint32_t table, pending;
  } const msix = {vectors, kTableOffset, kPendingOffset},
          msix_writable = {Msix::kControlEnable | Msix::kControlMaskAll, 0, 0};
  msix_capability_ = config_.add_capability(Msix::kCapabilityId, raw(msix), raw(msix_writable));
  const auto notify_size = static_cast<std::uint32_t>(kNotifyMultiplier * vectors);
  const auto config_size = static_cast<std::uint32_t>(backend_.config().size());
  add({.length = 0, .type = kCapCommon, .offset = kCommonOffset, .size = kCommonSize}, 16);
  add({.length = 0, .type = kCapIsr, .offset = kIsrOffset, .size = 1}, 16);
  if (config_size != 0) {
    add({.length = 0, .type = kCapDevice, .offset = kDeviceOffset, .size = config_size}, 16);
  }
  add({.length = 0,
       .type = kCapNotify,
       .offset = kNotifyOffset,
       .size = notify_size,
       .extra = kNotifyMultiplier},
      20);
  const CapabilityBody window = {.length = 20, .type = kCapWindow};
  const CapabilityBody writable = {
      .length = 0, .type = 0, .bar = 0xff, .offset = ~0U, .size = ~0U, .extra = ~0U};
  window_capability_ = config_.add_capability(kVendorCapability, raw(window), raw(writable));
}

// -- configuration space

std::uint32_t VirtioPci::read_config(unsigned offset, unsigned size) {
  const std::lock_guard lock(mutex_);
  if (offset / 4 == (window_capability_ + kWindowData) / 4U) access_window(false);
  return config_.read(offset, size);
}

void VirtioPci::write_config(unsigned offset, unsigned size, std::uint32_t value) {
  const std::lock_guard lock(mutex_);
  config_.write(offset, size, value);
  if (offset / 4 == (window_capability_ + kWindowData) / 4U) access_window(true);
  if (offset / 4 == msix_capability_ / 4U) {
    msix_.set_control(static_cast<std::uint16_t>(config_.read(msix_capability_ + 2U, 2)));
  }
}

// 4.1.4.9: the driver reaches the BAR through the capability's data field.
void VirtioPci::access_window(bool write) {
  const std::uint32_t bar = config_.read(window_capability_ + kWindowBar, 1);
  const std::uint32_t offset = config_.read(window_capability_ + kWindowOffset, 4);
  const std::uint32_t length = config_.read(window_capability_ + kWindowLength, 4);
  if (bar != 0 || (length != 1 && length != 2 && length != 4) || offset % length != 0 ||
      offset >= kBarSize) {
    return;
  }
  const unsigned data = window_capability_ + kWindowData;
  std::array<std::byte, 4> bytes{};
  const auto access = std::span(bytes).first(length);
  if (write) {
    store_le(access, config_.read(data, 4));
    write_bar(offset, access);
  } else {
    read_bar(offset, access);
    config_.write(data, 4, static_cast<std::uint32_t>(load_le(access)));
  }
}

// -- the BAR

void VirtioPci::read(std::uint64_t offset, std::span<std::byte> data) {
  const std::lock_guard lock(mutex_);
  if (config_.decodes()) {
    read_bar(offset, data);
  } else {
    fill_ones(data);
  }
}

void VirtioPci::write(std::uint64_t offset, std::span<const std::byte> data) {
  const std::lock_guard lock(mutex_);
  if (config_.decodes()) write_bar(offset, data);
}

void VirtioPci::read_bar(std::uint64_t offset, std::span<std::byte> data) {
  fill_ones(data);
  const std::uint64_t inside = offset % kRegionSize;
  switch (offset - inside) {
    case kCommonOffset:
      if (inside < kCommonSize) read_window(common_bytes(), inside, data);
      break;
    case kIsrOffset:
      if (inside == 0) store_le(data, isr_.exchange(0));
      break;
    case kDeviceOffset:
      if (inside < backend_.config().size()) read_window(backend_.config(), inside, data);
      break;
    case kTableOffset:
      msix_.read_table(inside, data);
      break;
    case kPendingOffset:
      msix_.read_pending(inside, data);
      break;
    default:
      break;
  }
}

void VirtioPci::write_bar(std::uint64_t offset, std::span<const std::byte> data) {
  const std::uint64_t inside = offset % kRegionSize;
  switch (offset - inside) {
    case kCommonOffset:
      write_common(inside, data.size(), load_le(data));
      break;
    case kDeviceOffset: {
      const std::size_t size = backend_.config().size();
      if (inside < size && data.size() <= size - inside) backend_.write_config(inside, data);
      break;
    }
    case kNotifyOffset:
      if (inside / kNotifyMultiplier < queues_.size()) {
        queues_[inside / kNotifyMultiplier]->doorbell.signal();
      }
      break;
    case kTableOffset:
      msix_.write_table(inside, data);
      break;
    default:
      break;
  }
}

// -- interrupts: called by the backend's threads

void VirtioPci::interrupt(std::size_t index, std::uint8_t cause) {
  isr_.fetch_or(cause);
  msix_.trigger(vectors_[index].load());  // kNoVector is no vector of the table
}

void VirtioPci::interrupt_queue(unsigned queue) {
  if (queue < queues_.size()) interrupt(queue, kIsrQueue);
}

void VirtioPci::config_changed() {
  ++generation_;
  interrupt(queues_.size(), kIsrConfig);
}

void VirtioPci::needs_reset() {
  if ((status_.fetch_or(kNeedsReset) & kNeedsReset) == 0) interrupt(queues_.size(), kIsrConfig);
}

// -- life

std::uint64_t VirtioPci::offered_features() const {
  return backend_.features() | kFeatureVersion1 | kFeatureIndirect | kFeatureEventIndex;
}

bool VirtioPci::acceptable(std::uint64_t features) const {
  return (features & ~offered_features()) == 0 && (features & kFeatureVersion1) != 0;
}

void VirtioPci::reset() {
  stop_backend();
  backend_.reset();
  common_ = Common{};
  for (auto& queue : queues_) queue->ring.reset();
  for (auto& vector : vectors_) vector = kNoVector;
  isr_ = 0;
  status_ = 0;  // last: reading 0 tells the driver that the reset is complete (2.4)
}

void VirtioPci::update_backend() {
  const std::uint8_t status = status_;
  if ((status & kDriverOk) == 0 || (status & kNeedsReset) != 0 || quiesced_) {
    stop_backend();
    return;
  }
  if (started_) return;
  std::vector<VirtioQueuePort> ports;
  for (auto& queue : queues_) {
    if (queue->ring.enabled()) queue->ring.start(common_.driver_features);
    if (queue->ring.broken()) {
      needs_reset();
      return;
    }
    ports.push_back({&queue->ring, &queue->doorbell});
  }
  started_ = true;
  backend_.start(*this, common_.driver_features, ports);
}

void VirtioPci::stop_backend() {
  if (std::exchange(started_, false)) backend_.stop();
}

void VirtioPci::quiesce() {
  const std::lock_guard lock(mutex_);
  quiesced_ = true;
  update_backend();
}

void VirtioPci::resume() {
  const std::lock_guard lock(mutex_);
  quiesced_ = false;
  // An interrupt may have been on its way into the guest when the state was taken; drivers take one
  // too many for what it is. The requests that are waiting are the backend's start()'s business.
  if (std::exchange(restored_, false) && (status_ & kDriverOk) != 0) {
    for (std::size_t i = 0; i < queues_.size(); ++i) {
      if (queues_[i]->ring.enabled()) interrupt(i, kIsrQueue);
    }
    if ((isr_ & kIsrConfig) != 0) interrupt(queues_.size(), kIsrConfig);
  }
  update_backend();
}

void VirtioPci::save(vmm::StateWriter& writer, std::uint32_t instance) const {
  static_assert(std::has_unique_object_representations_v<Common>);
  const std::lock_guard lock(mutex_);
  writer.begin(kind(), kStateVersion, instance);
  writer.put(bar_address_);
  config_.save(writer);
  msix_.save(writer);
  writer.put(common_);
  writer.put(status_.load());
  writer.put(isr_.load());
  writer.put(generation_.load());
  for (const auto& vector : vectors_) writer.put(vector.load());
  for (const auto& queue : queues_) writer.put(queue->ring.state());
  backend_.save(writer);
}

void VirtioPci::restore(vmm::StateReader& reader, std::uint32_t instance) {
  const std::lock_guard lock(mutex_);
  stop_backend();
  reader.begin(kind(), kStateVersion, instance);
  if (reader.get<std::uint64_t>() != bar_address_) reader.fail("its BAR is placed elsewhere here");
  config_.restore(reader);
  msix_.set_control(static_cast<std::uint16_t>(config_.read(msix_capability_ + 2U, 2)));
  msix_.restore(reader);
  common_ = reader.get<Common>();
  const auto status = reader.get<std::uint8_t>();
  if ((status & ~kStatusBits) != 0 || ((status & kDriverOk) != 0 && (status & kFeaturesOk) == 0)) {
    reader.fail("impossible device status");
  }
  if ((status & kFeaturesOk) != 0 && !acceptable(common_.driver_features)) {
    reader.fail("the guest uses features that this device does not have");
  }
  status_ = status;
  isr_ = reader.get<std::uint8_t>() & (kIsrQueue | kIsrConfig);
  generation_ = reader.get<std::uint8_t>();
  for (auto& vector : vectors_) {
    const auto value = reader.get<std::uint16_t>();
    if (valid_vector(value) != value) reader.fail("impossible interrupt vector");
    vector = value;
  }
  for (auto& queue : queues_) {
    if (!queue->ring.set_state(reader.get<Virtqueue::State>())) reader.fail("impossible queue");
  }
  backend_.restore(reader);
  restored_ = true;
}

}  // namespace godwit::devices
