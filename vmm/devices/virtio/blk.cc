#include "vmm/devices/virtio/blk.h"

#include <pthread.h>
#include <signal.h>

#include <algorithm>
#include <exception>

#include "vmm/sys/error.h"

namespace godwit::devices {
namespace {

// 5.2.3
constexpr std::uint64_t kFeatureSizeMax = 1ULL << 1, kFeatureSegMax = 1ULL << 2,
                        kFeatureReadOnly = 1ULL << 5, kFeatureBlockSize = 1ULL << 6,
                        kFeatureFlush = 1ULL << 9, kFeatureDiscard = 1ULL << 13,
                        kFeatureWriteZeroes = 1ULL << 14;

constexpr std::uint32_t kMaxRangeSectors = 1U << 22;  // 2 GiB in one discard or write-zeroes

constexpr std::array<std::uint16_t, 1> kQueueSizes = {VirtioBlk::kQueueSize};

/// A thread that no signal is delivered to: vCPU kicks and Ctrl-C are others' business.
std::thread start_quiet_thread(auto&& body) {
  sigset_t all, before;
  ::sigfillset(&all);
  ::pthread_sigmask(SIG_SETMASK, &all, &before);
  try {
    std::thread thread(body);
    ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
    ::pthread_setname_np(thread.native_handle(), "virtio-blk");
    return thread;
  } catch (...) {
    ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
    throw;
  }
}

}  // namespace

VirtioBlk::VirtioBlk(DiskImage& image, std::string_view serial, IoEngine::Kind engine)
    : image_(image),
      engine_(IoEngine::create(image.fd(), kQueueSize, engine)),
      requests_(kQueueSize) {
  std::copy_n(serial.begin(), std::min(serial.size(), kSerialSize), serial_.begin());
  config_.capacity = image.sectors();
  config_.size_max = 1U << 20;
  config_.seg_max = kQueueSize - 2;  // less the header and the status
  config_.blk_size = image.block_size();
  config_.num_queues = 1;
  config_.max_discard_sectors = kMaxRangeSectors;
  config_.max_discard_seg = 1;
  config_.discard_sector_alignment = 8;
  config_.max_write_zeroes_sectors = kMaxRangeSectors;
  config_.max_write_zeroes_seg = 1;
  config_.write_zeroes_may_unmap = 1;
  for (std::uint32_t i = kQueueSize; i > 0; --i) free_.push_back(i - 1);
  thread_ = start_quiet_thread([this] { run(); });
}

VirtioBlk::~VirtioBlk() {
  stop();
  {
    const std::lock_guard lock(mutex_);
    exit_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

std::uint64_t VirtioBlk::features() const {
  const std::uint64_t common = kFeatureSizeMax | kFeatureSegMax | kFeatureBlockSize | kFeatureFlush;
  return common | (image_.read_only() ? kFeatureReadOnly : kFeatureDiscard | kFeatureWriteZeroes);
}

std::span<const std::uint16_t> VirtioBlk::queue_sizes() const { return kQueueSizes; }

std::span<const std::byte> VirtioBlk::config() const {
  // Up to and with unused1: what follows is padding of ours.
  return std::as_bytes(std::span(&config_, 1)).first(offsetof(Config, unused2));
}

void VirtioBlk::start(VirtioHost& host, std::uint64_t features,
                      std::span<const VirtioQueuePort> queues) {
  stop();
  if (queues.empty() || !queues[0].queue->enabled()) return;
  {
    const std::lock_guard lock(mutex_);
    host_ = &host;
    features_ = features;
    port_ = queues[0];
    broken_ = false;
    stop_requested_ = false;
    serving_ = true;
  }
  changed_.notify_all();
}

void VirtioBlk::stop() {
  std::unique_lock lock(mutex_);
  if (!serving_) return;
  stop_requested_ = true;
  control_.signal();
  changed_.wait(lock, [this] { return !serving_; });
}

void VirtioBlk::save(vmm::StateWriter& writer) const {
  writer.put(config_.capacity);
  writer.put(std::uint8_t{image_.read_only()});
  writer.put(config_.blk_size);
}

void VirtioBlk::restore(vmm::StateReader& reader) {
  const auto sectors = reader.get<std::uint64_t>();
  if (sectors != image_.sectors()) {
    reader.fail("disk image " + image_.path() + " has " + std::to_string(image_.sectors()) +
                " sectors here, the guest knows " + std::to_string(sectors));
  }
  if (reader.get<std::uint8_t>() != std::uint8_t{image_.read_only()}) {
    reader.fail("disk image " + image_.path() + " is read-only on one side only");
  }
  // A larger one here would fail what the guest has a right to ask.
  if (const auto block = reader.get<std::uint32_t>(); block < image_.block_size() || block > 4096) {
    reader.fail("disk image " + image_.path() + " needs blocks of " +
                std::to_string(image_.block_size()) + " bytes here, the guest knows " +
                std::to_string(block));
  } else {
    config_.blk_size = block;
  }
}

// -- the I/O thread

void VirtioBlk::run() {
  std::unique_lock lock(mutex_);
  for (;;) {
    changed_.wait(lock, [this] { return serving_ || exit_; });
    if (exit_) return;
    lock.unlock();
    try {
      serve();
    } catch (const std::exception&) {
      // The host's engine failed, not a request: give the device up until the driver resets it.
      engine_ = IoEngine::create(image_.fd(), kQueueSize, IoEngine::Kind::kSynchronous);
      free_.clear();
      for (std::uint32_t i = 0; i < kQueueSize; ++i) {
        requests_[i].chain.writable.clear();
        free_.push_back(i);
      }
      host_->needs_reset();
    }
    lock.lock();
    serving_ = false;
    changed_.notify_all();
  }
}

void VirtioBlk::serve() {
  const std::array<const sys::EventFd*, 2> wake_ups = {&control_, port_.doorbell};
  std::vector<IoCompletion> completions;
  take_requests();
  // A stop waits for what is in flight, and takes nothing more.
  while (!stop_requested_ || free_.size() != requests_.size()) {
    engine_->wait(wake_ups, completions);
    for (const IoCompletion& completion : completions) completed(completion);
    take_requests();
    notify();
  }
}

void VirtioBlk::take_requests() {
  if (broken_) return;
  do {
    // In batches, so that a driver that never stops asking still gets its answers and its
    // interrupts.
    for (unsigned batch = 0; batch < kQueueSize && !free_.empty(); ++batch) {
      if (stop_requested_) return;
      Request& request = requests_[free_.back()];
      const auto result = port_.queue->pop(request.chain);
      if (result == Virtqueue::Pop::kBroken) break_device();
      if (result != Virtqueue::Pop::kChain) break;
      free_.pop_back();
      begin(request);
    }
    notify();
  } while (!broken_ && !free_.empty() && port_.queue->arm_doorbell());
  if (port_.queue->broken()) break_device();
}

void VirtioBlk::break_device() {
  if (std::exchange(broken_, true)) return;
  host_->needs_reset();
}

void VirtioBlk::notify() {
  if (broken_ || !std::exchange(pushed_, false)) return;
  if (port_.queue->wants_interrupt()) host_->interrupt_queue(0);
}

std::uint32_t VirtioBlk::id_of(const Request& request) const {
  return static_cast<std::uint32_t>(&request - requests_.data());
}

}  // namespace godwit::devices
