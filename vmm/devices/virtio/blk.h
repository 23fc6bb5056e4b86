// virtio block device (virtio 1.2, 5.2): one queue over one DiskImage. Owned by Machine, together
// with the VirtioPci that shows it. All I/O happens on one thread of its own, which sleeps until
// the doorbell rings or I/O completes, and only between start() and stop(); buffers are the
// guest's, no copy is made. Offers flush, discard, write-zeroes, 512-byte sectors, GET_ID.
//
// With DiskImage::direct() buffers of the guest that the host's disk cannot take as they lie go
// through a small one of ours, and blk_size is what that disk demands of offsets.
//
// The image goes through the host's page cache, or not: a write is stable once a flush after it
// completed, or, for a driver that did not negotiate VIRTIO_BLK_F_FLUSH, when it completes itself.
#pragma once

#include <array>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "vmm/devices/virtio/backend.h"
#include "vmm/devices/virtio/disk_image.h"
#include "vmm/devices/virtio/io_engine.h"
#include "vmm/sys/event_fd.h"

namespace godwit::devices {

class VirtioBlk final : public VirtioBackend {
 public:
  static constexpr std::uint16_t kQueueSize = 256;
  static constexpr std::size_t kSerialSize = 20;

  /// `serial`: what GET_ID answers, at most 20 bytes of it (a guest's /dev/disk/by-id). The image
  /// must outlive the device. Throws std::system_error when the thread or its eventfd cannot be
  /// made.
  VirtioBlk(DiskImage& image, std::string_view serial,
            IoEngine::Kind engine = IoEngine::Kind::kBest);
  ~VirtioBlk() override;
  VirtioBlk(const VirtioBlk&) = delete;
  VirtioBlk& operator=(const VirtioBlk&) = delete;

  std::string_view kind() const override { return "virtio-blk"; }
  std::uint16_t device_id() const override { return 2; }
  std::uint32_t pci_class() const override { return 0x018000; }  // mass storage, other
  std::uint64_t features() const override;
  std::span<const std::uint16_t> queue_sizes() const override;
  std::span<const std::byte> config() const override;
  void start(VirtioHost& host, std::uint64_t features,
             std::span<const VirtioQueuePort> queues) override;
  void stop() override;
  void save(vmm::StateWriter& writer) const override;
  void restore(vmm::StateReader& reader) override;

  /// Bytes moved from and to the image since the device was made, not those of discards. Any
  /// thread.
  std::uint64_t read_bytes() const { return read_bytes_.load(std::memory_order_relaxed); }
  std::uint64_t written_bytes() const { return written_bytes_.load(std::memory_order_relaxed); }
  /// Requests that the host failed, and the errno of the last. Any thread.
  std::uint64_t errors() const { return errors_; }
  int last_error() const { return last_error_; }

 private:
  // 5.2.4
  struct Config {
    std::uint64_t capacity;  // sectors
    std::uint32_t size_max;
    std::uint32_t seg_max;
    std::uint8_t geometry[4];
    std::uint32_t blk_size;
    std::uint8_t topology[8];
    std::uint8_t writeback;
    std::uint8_t unused0;
    std::uint16_t num_queues;
    std::uint32_t max_discard_sectors;
    std::uint32_t max_discard_seg;
    std::uint32_t discard_sector_alignment;
    std::uint32_t max_write_zeroes_sectors;
    std::uint32_t max_write_zeroes_seg;
    std::uint8_t write_zeroes_may_unmap;
    std::uint8_t unused1[3];
    std::uint32_t unused2;
  };

  struct FreeBytes {
    void operator()(std::byte* bytes) const { std::free(bytes); }
  };

  /// A chain being served. Its buffers are marked dirty when `chain.writable` is cleared.
  struct Request {
    Chain chain;
    IoOperation operation;
    std::vector<iovec> buffers;                      // what is left of the transfer
    std::unique_ptr<std::byte[], FreeBytes> bounce;  // the engine's in place of buffers
    iovec bounced = {};
    std::uint64_t done = 0;  // bytes of operation.length
    unsigned retries = 0;
    bool data_in = false;      // the device writes data for the guest
    bool may_emulate = false;  // kZero, kDiscard: write zeroes if the file system cannot
    bool emulated = false;
    bool sync_after = false;  // a durable kZero, kDiscard
  };

  void run();
  void serve();
  void take_requests();
  void begin(Request& request);
  void begin_transfer(Request& request, bool in, std::uint64_t sector);
  void begin_range(Request& request, bool discard);
  void answer_id(Request& request);
  void submit(Request& request);
  void submit_rest(Request& request, std::uint64_t moved);
  bool aligned(const Request& request) const;
  void submit_bounced(Request& request);
  void completed(const IoCompletion& completion);
  void failed(Request& request, int error);
  void answer_error(Request& request, int error);
  void finish(Request& request, std::uint8_t status);
  void finish(Request& request, std::uint8_t status, std::uint64_t written);
  void break_device();
  void notify();
  std::uint32_t id_of(const Request& request) const;

  DiskImage& image_;
  std::array<char, kSerialSize> serial_{};
  Config config_{};

  std::mutex mutex_;
  std::condition_variable changed_;
  bool serving_ = false;
  bool exit_ = false;
  std::atomic<bool> stop_requested_ = false;
  sys::EventFd control_;  // wakes the thread for stop_requested_

  // Set by start() before the thread serves; then the thread's alone.
  VirtioHost* host_ = nullptr;
  std::uint64_t features_ = 0;
  VirtioQueuePort port_;
  std::unique_ptr<IoEngine> engine_;
  std::vector<Request> requests_;
  std::vector<std::uint32_t> free_;  // indices of requests_
  bool broken_ = false;
  std::atomic<std::uint64_t> read_bytes_ = 0;
  std::atomic<std::uint64_t> written_bytes_ = 0;
  std::atomic<std::uint64_t> errors_ = 0;
  std::atomic<int> last_error_ = 0;
  bool pushed_ = false;  // since the driver was last considered for an interrupt

  std::thread thread_;  // last: it uses all of the above
};

}  // namespace godwit::devices
