// virtio balloon (virtio 1.2, 5.5): the guest gives memory back to the host, as much as it is asked
// for (inflation) and whatever it has free (page reporting); pages given back become holes of guest
// RAM. Owned by Machine, together with the VirtioPci that shows it; serves on a thread of its own
// between start() and stop().
//
// While memory is held (GuestMemory::Hold: a move is copying it) nothing is punched. Reports that
// come then are answered and forgotten: the guest may use those pages again at once. Pages of the
// balloon stay the balloon's, so they are remembered and punched later, here or where the guest
// went.
#pragma once

#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <mutex>
#include <optional>
#include <vector>

#include "vmm/devices/virtio/backend.h"
#include "vmm/devices/virtio/worker.h"
#include "vmm/memory/guest_memory.h"

namespace godwit::devices {

/// What the driver last said of the guest's memory (5.5.6.3), by tag; nullopt: it did not say.
struct BalloonStatistics {
  static constexpr std::size_t kTags = 10;
  /// "swap_in_bytes", ..., in the order of the tags.
  static const std::array<const char*, kTags> kNames;
  std::array<std::optional<std::uint64_t>, kTags> values{};
};

class VirtioBalloon final : public VirtioBackend {
 public:
  static constexpr std::uint16_t kQueueSize = 128;
  static constexpr unsigned kQueues = 5;

  /// The memory must outlive the device. Throws std::system_error when the thread cannot be made.
  explicit VirtioBalloon(memory::GuestMemory& memory);

  std::string_view kind() const override { return "virtio-balloon"; }
  std::uint16_t device_id() const override { return 5; }
  std::uint32_t pci_class() const override { return 0xff0000; }  // none that fits
  std::uint64_t features() const override;
  std::span<const std::uint16_t> queue_sizes() const override;
  std::span<const std::byte> config() const override;
  void write_config(std::uint64_t offset, std::span<const std::byte> data) override;
  void start(VirtioHost& host, std::uint64_t features,
             std::span<const VirtioQueuePort> queues) override;
  void stop() override;
  void save(vmm::StateWriter& writer) const override;
  void restore(vmm::StateReader& reader) override;
  void reset() override;

  // -- any thread
  /// How many pages the guest is to give; it takes its time, and may give less.
  void set_target(std::uint32_t pages);
  std::uint32_t target() const { return target_; }
  /// How many it has given, as its driver says.
  std::uint32_t actual() const { return actual_; }
  /// Bytes that page reporting has given back since the device was made.
  std::uint64_t reported_bytes() const { return reported_; }
  /// The newest statistics; asks for newer ones, which the driver sends when it can.
  BalloonStatistics statistics();

 private:
  enum class Role { kInflate, kDeflate, kStatistics, kReporting };
  // 5.5.4, without what was not offered
  struct Config {
    std::uint32_t num_pages;
    std::uint32_t actual;
  };

  Role role(unsigned queue) const;
  void serve();
  bool serve_queue(unsigned queue);
  bool handle(Role role, Chain& chain);
  bool take_pages(const Chain& chain, bool inflate);
  void forget(memory::PageRange back);
  void report(Chain& chain);
  bool take_statistics(const Chain& chain);
  void refresh_statistics();
  void punch_deferred();

  memory::GuestMemory& memory_;
  mutable Config config_{};
  std::atomic<std::uint32_t> target_ = 0;
  std::atomic<std::uint32_t> actual_ = 0;
  std::atomic<std::uint64_t> reported_ = 0;
  std::atomic<bool> statistics_wanted_ = false;
  std::mutex statistics_mutex_;
  BalloonStatistics statistics_;

  // Set by start() before the thread serves; then the thread's alone.
  VirtioHost* host_ = nullptr;
  std::uint64_t features_ = 0;
  std::array<VirtioQueuePort, kQueues> ports_;
  Chain chain_;
  std::optional<std::uint16_t> statistics_chain_;  // the driver's buffer, ours until we want news
  std::uint32_t announced_ = 0;                    // the target that the driver was last told of
  std::vector<std::uint32_t> frames_;
  std::vector<memory::PageRange> deferred_;  // the balloon's, and not punched yet

  Worker worker_;  // last: it uses all of the above
};

}  // namespace godwit::devices
