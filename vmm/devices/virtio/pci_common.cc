// The common configuration structure of VirtioPci: virtio 1.2, 4.1.4.3.
#include <bit>

#include "vmm/devices/access.h"
#include "vmm/devices/virtio/pci_transport.h"

namespace godwit::devices {
namespace {

enum Field : std::uint64_t {
  kDeviceFeatureSelect = 0,
  kDeviceFeature = 4,
  kDriverFeatureSelect = 8,
  kDriverFeature = 12,
  kConfigVector = 16,
  kNumQueues = 18,
  kDeviceStatus = 20,
  kConfigGeneration = 21,
  kQueueSelect = 22,
  kQueueSize = 24,
  kQueueVector = 26,
  kQueueEnable = 28,
  kQueueNotifyOff = 30,
  kQueueDescriptors = 32,
  kQueueDriver = 40,
  kQueueDevice = 48,
};

constexpr std::uint8_t kAcknowledge = 0x01, kDriver = 0x02, kDriverOk = 0x04, kFeaturesOk = 0x08,
                       kFailed = 0x80;

std::uint32_t half(std::uint64_t value, std::uint32_t select) {
  return select < 2 ? static_cast<std::uint32_t>(value >> (32 * select)) : 0;
}

void set_half(std::uint64_t& field, bool high, std::uint64_t value) {
  const std::uint64_t mask = 0xffff'ffff;
  field = high ? (field & mask) | (value << 32) : (field & ~mask) | (value & mask);
}

}  // namespace

std::array<std::byte, VirtioPci::kCommonSize> VirtioPci::common_bytes() const {
  std::array<std::byte, kCommonSize> bytes{};
  const auto put = [&](std::uint64_t offset, auto value) {
    store_le(std::span(bytes).subspan(offset, sizeof value), value);
  };
  put(kDeviceFeatureSelect, common_.device_feature_select);
  put(kDeviceFeature, half(offered_features(), common_.device_feature_select));
  put(kDriverFeatureSelect, common_.driver_feature_select);
  put(kDriverFeature, half(common_.driver_features, common_.driver_feature_select));
  put(kConfigVector, vectors_.back().load());
  put(kNumQueues, static_cast<std::uint16_t>(queues_.size()));
  put(kDeviceStatus, status_.load());
  put(kConfigGeneration, generation_.load());
  put(kQueueSelect, common_.queue_select);
  // A queue that does not exist has size 0, and nothing else.
  if (common_.queue_select >= queues_.size()) return bytes;
  const Virtqueue::State& queue = queues_[common_.queue_select]->ring.state();
  put(kQueueSize, queue.size);
  put(kQueueVector, vectors_[common_.queue_select].load());
  put(kQueueEnable, std::uint16_t{queue.enabled});
  put(kQueueNotifyOff, common_.queue_select);
  put(kQueueDescriptors, queue.descriptors);
  put(kQueueDriver, queue.available);
  put(kQueueDevice, queue.used);
  return bytes;
}

// Fields are written whole, but for the 64-bit addresses, which Linux writes in halves (4.1.3.1).
void VirtioPci::write_common(std::uint64_t offset, std::size_t size, std::uint64_t value) {
  if (offset >= kQueueSize) {
    write_queue(offset, size, value);
  } else if (offset == kDeviceFeatureSelect && size == 4) {
    common_.device_feature_select = static_cast<std::uint32_t>(value);
  } else if (offset == kDriverFeatureSelect && size == 4) {
    common_.driver_feature_select = static_cast<std::uint32_t>(value);
  } else if (offset == kDriverFeature && size == 4) {
    // 3.1.1: settled once FEATURES_OK is.
    if ((status_ & kFeaturesOk) == 0 && common_.driver_feature_select < 2) {
      set_half(common_.driver_features, common_.driver_feature_select == 1, value);
    }
  } else if (offset == kConfigVector && size == 2) {
    vectors_.back() = valid_vector(value);
  } else if (offset == kDeviceStatus && size == 1) {
    write_status(static_cast<std::uint8_t>(value));
  } else if (offset == kQueueSelect && size == 2) {
    common_.queue_select = static_cast<std::uint16_t>(value);
  }
}

void VirtioPci::write_queue(std::uint64_t offset, std::size_t size, std::uint64_t value) {
  if (common_.queue_select >= queues_.size()) return;
  if (offset == kQueueVector && size == 2) {
    vectors_[common_.queue_select] = valid_vector(value);
    return;
  }
  Virtqueue& ring = queues_[common_.queue_select]->ring;
  // 4.1.4.3.2: a queue is laid out before it is enabled, and enabled before DRIVER_OK; from then on
  // it belongs to the backend, until a reset.
  if (ring.enabled() || (status_ & kDriverOk) != 0) return;
  Virtqueue::State& queue = ring.state();
  if (offset == kQueueSize && size == 2) {
    if (std::has_single_bit(value) && value <= ring.max_size()) {
      queue.size = static_cast<std::uint16_t>(value);
    }
  } else if (offset == kQueueEnable && size == 2) {
    queue.enabled = value == 1 ? 1 : 0;
  } else if (offset >= kQueueDescriptors && offset < kCommonSize && offset % size == 0) {
    std::uint64_t& address = offset < kQueueDriver   ? queue.descriptors
                             : offset < kQueueDevice ? queue.available
                                                     : queue.used;
    if (size == 8) address = value;
    if (size == 4) set_half(address, offset % 8 != 0, value);
  }
}

void VirtioPci::write_status(std::uint8_t value) {
  if (value == 0) {
    reset();
    return;
  }
  // Bits are only ever added; those that their conditions do not allow stay clear, and the driver
  // sees it (3.1.1, steps 5 and 6).
  const std::uint8_t status = status_;
  auto added = static_cast<std::uint8_t>(
      value & ~status & (kAcknowledge | kDriver | kDriverOk | kFeaturesOk | kFailed));
  if ((added & kFeaturesOk) != 0 && !acceptable(common_.driver_features))
    added &= 0xff ^ kFeaturesOk;
  if (((status | added) & kFeaturesOk) == 0) added &= 0xff ^ kDriverOk;
  status_.fetch_or(added);
  if ((added & kDriverOk) != 0) update_backend();
}

std::uint16_t VirtioPci::valid_vector(std::uint64_t value) const {
  return value < msix_.vectors() ? static_cast<std::uint16_t>(value) : kNoVector;
}

}  // namespace godwit::devices
