// One virtual machine: owns RAM, vCPUs and devices; member order is teardown order. Commands
// (start, pause, save, ...) come from one thread at a time; wait(), request_stop() and
// console_input() from any.
#pragma once

#include <chrono>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "vmm/config.h"
#include "vmm/memory/dirty_log.h"
#include "vmm/memory/guest_memory.h"
#include "vmm/state.h"
#include "vmm/sys/urgency.h"

namespace godwit::vmm {

/// Why a machine ended.
struct End {
  enum class Kind { kPowerOff, kReset, kStopped, kFailed } kind = Kind::kStopped;
  std::string why;  // for kFailed: one line for the user
};

/// Takes what the guest prints on its consoles. Any of them may be empty.
struct ConsoleSink {
  using Output = std::function<void(std::span<const std::byte>)>;

  ConsoleSink() = default;
  /// The serial one alone.
  template <typename F>
  requires std::constructible_from<Output, F>
  // NOLINTNEXTLINE(google-explicit-constructor)
  ConsoleSink(F output) : serial(std::move(output)) {}

  Output serial;  // called from vCPU threads
  Output hvc;     // the virtio one; called from its thread
};

/// What a machine has used of its host so far; the figures only grow.
struct Usage {
  std::uint64_t cpu_run_ns = 0;   // vCPU threads on a CPU
  std::uint64_t cpu_wait_ns = 0;  // vCPU threads runnable but waiting; 0 where that is not counted
  std::uint64_t disk_read_bytes = 0;
  std::uint64_t disk_write_bytes = 0;
  std::uint64_t net_receive_bytes = 0;  // packets to the guest
  std::uint64_t net_send_bytes = 0;

  Usage& operator+=(const Usage& other) {
    cpu_run_ns += other.cpu_run_ns;
    cpu_wait_ns += other.cpu_wait_ns;
    disk_read_bytes += other.disk_read_bytes;
    disk_write_bytes += other.disk_write_bytes;
    net_receive_bytes += other.net_receive_bytes;
    net_send_bytes += other.net_send_bytes;
    return *this;
  }
};

/// What a guest's balloon has taken, bytes.
struct BalloonState {
  std::uint64_t target = 0;    // asked for
  std::uint64_t actual = 0;    // given, as the guest's driver says
  std::uint64_t reported = 0;  // given back by free page reporting, since this machine was built
  /// What the driver last said of its memory: names and values.
  std::vector<std::pair<const char*, std::uint64_t>> statistics = {};
};

/// What the host failed to do for one disk since this machine was built.
struct DiskErrors {
  std::uint64_t count = 0;  // requests; the guest was told of each
  int last = 0;             // errno of the last
};

class Machine {
 public:
  /// Builds the machine in its shape: RAM (holes), vCPUs, devices, wiring. Disks are opened but not
  /// locked. Throws std::system_error or std::runtime_error with one line for the user.
  Machine(MachineConfig config, ConsoleSink console);
  /// The same with RAM that is there already (see GuestMemory). Of machines that share RAM at most
  /// one may run, and only one that got the other's state; restore() and resume() write to it.
  Machine(MachineConfig config, ConsoleSink console, memory::GivenRam ram);
  ~Machine();
  Machine(const Machine&) = delete;
  Machine& operator=(const Machine&) = delete;

  const MachineConfig& config() const;

  /// Takes / releases the exclusive locks of writable disks. lock_disks() throws naming the image
  /// and, where known, who holds it.
  void lock_disks();
  void unlock_disks();

  // Writable disks as the witness of whether a guest that was handed over has begun to run there:
  // who takes it marks them, with their locks, before it does; who has handed it over and finds no
  // mark, and then gets the locks, knows that it has not, and never will.
  /// They can be: there are some, all are files, and who runs the guest has their locks, by which
  /// these are seen to hold from here to there.
  bool disks_tell() const;
  /// When each was changed last, nanoseconds; once unlock_disks() has returned, by somebody else.
  std::vector<std::int64_t> disk_stamps() const;
  /// With their locks. Throws when that cannot be, or the locks are somebody else's by now.
  void mark_disks();
  bool disks_locked_elsewhere() const;

  /// Loads kernel, initrd and command line and sets the boot vCPU to its entry. Once, before
  /// start().
  void boot();

  /// Lets the vCPUs run, at first or after pause().
  void resume();
  /// Stops all vCPUs and quiesces the devices; on return nothing of this machine touches its RAM.
  void pause();
  bool running() const;
  /// While the machine runs: its vCPUs stand still, and its devices go on, until hold(false),
  /// pause() or resume(). Nothing on a machine that is paused or over. Any thread.
  void hold(bool on);

  /// How soon the vCPUs' threads get a CPU that others want, too. The highest lasts 50 ms; then it
  /// is a high one. One caller at a time.
  void set_urgency(sys::Urgency urgency) noexcept;

  /// All state but RAM; only while paused.
  std::vector<std::byte> save();
  /// Only on a machine that never ran. Throws StateError or std::system_error; then it is unusable.
  /// `longest_pause`: how long the guest may have stood still, by this host's clock; what is longer
  /// is taken for a clock that is wrong, and the guest's goes on from where it was.
  void restore(std::span<const std::byte> state,
               std::chrono::nanoseconds longest_pause = kLongestMove);
  static constexpr std::chrono::seconds kLongestMove{60};
  static constexpr std::chrono::hours kLongestSleep{24 * 366 * 10};  // in a snapshot
  /// Gives the guest a new generation ID and tells it (ACPI's VM_Gen_Counter): it goes on from a
  /// state that others may go on from, too. While paused.
  void renew_generation();

  /// Builds the boot vCPU's nested page table of these pages of RAM, so that its first look at them
  /// is no exit; best for pages that are populated, others become so. False where the kernel cannot
  /// (before Linux 6.11). Only on a machine that never ran, by one thread, and neither during
  /// restore() nor resume().
  bool pre_fault(memory::PageRange range);

  memory::GuestMemory& memory();
  memory::DirtyLog& dirty_log();

  /// What a destination must have for this guest: CPUID features and kernel capabilities, as JSON
  /// text (opaque to everyone but `refusal`).
  std::string requirements() const;
  /// Why this host cannot run a guest with those requirements, every missing feature named; empty
  /// if it can.
  static std::string refusal(const std::string& requirements);
  /// Finds out ahead what refusal() has to know of this host: a virtual machine is made for it, and
  /// to get rid of that takes the kernel some milliseconds. From any thread.
  static void warm_up() noexcept;

  /// Blocks until the guest powers off, resets, fails, or request_stop() is called.
  End wait();
  /// Makes wait() return kStopped. Safe from any thread.
  void request_stop();
  /// Presses the ACPI power button: the guest's own shutdown; what it does with it is its affair.
  void press_power_button();

  /// The guest's kernel has said so, since it booted. Any thread.
  bool panicked() const;

  /// Bytes typed at the console. What does not fit in the serial FIFO waits in a bounded queue;
  /// returns how many bytes were taken.
  std::size_t console_input(std::span<const std::byte> bytes);
  /// The same for the virtio console; takes everything, and drops it, where there is none.
  std::size_t hvc_input(std::span<const std::byte> bytes);

  /// Asks the guest to give that much of its memory, rounded down to pages; it takes its time. Any
  /// thread. Throws std::runtime_error for a guest without a balloon, and for more than it has.
  void set_balloon(std::uint64_t bytes);
  /// nullopt: it has none. Any thread.
  std::optional<BalloonState> balloon() const;
  /// In the order of the configuration's disks. Any thread.
  std::vector<DiskErrors> disk_errors() const;

  /// CPU time the vCPU threads have used, nanoseconds.
  std::uint64_t vcpu_cpu_ns() const;
  /// All vCPUs, disks and network cards, since this machine was built. Any thread; blocks on
  /// nothing.
  Usage usage() const;
  /// CLOCK_MONOTONIC nanoseconds at the first entry into the guest; 0 before.
  std::uint64_t first_instruction_ns() const;

 private:
  struct Parts;
  std::unique_ptr<Parts> parts_;
};

}  // namespace godwit::vmm
