// How fast a guest changes its memory, estimated from outside: some pages are hashed at each call
// and compared with what they were at the call before. It touches neither KVM's dirty log nor the
// pages' owners: nothing is populated, write-protected or brought back from swap, so it disturbs no
// move. One thread at a time.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <random>
#include <vector>

#include "vmm/memory/guest_memory.h"

namespace godwit::memory {

class DirtyRate {
 public:
  using TimePoint = std::chrono::steady_clock::time_point;

  static constexpr std::size_t kSample = 256;  // pages looked at in a call
  static constexpr std::size_t kRenewed =
      16;  // of them chosen anew at each call, more when RAM fills
  /// Calls that come sooner get the answer of the last.
  static constexpr std::chrono::milliseconds kMinInterval{200};
  static constexpr std::chrono::seconds kMemory{4};  // of the average over calls

  explicit DirtyRate(std::uint64_t seed = std::random_device{}());

  /// Bytes of RAM changed a second: the share of sampled pages that changed since the call before,
  /// of all that was populated then, plus what was populated since; averaged over the last few
  /// seconds. 0 at the first call. The limits of it:
  /// - A page counts once however often it was written between two calls, so the rate saturates at
  ///   populated bytes / interval; one that was written with what it held does not count at all.
  /// - One sampled page stands for populated bytes / kSample: 1 MiB in a guest that uses 256 MiB.
  /// Takes 0.3 to 0.7 ms and 1 ms the first time, for 256 MiB as for 64 GiB; at most about 3 ms,
  /// where hardly a page in a hundred is populated. With `renew` false, for the time of a move, the
  /// same pages are looked at again and the memfd's lock is left to the mover.
  double sample(const GuestMemory& memory, TimePoint now, bool renew = true);

  /// Forgets everything: other memory comes next.
  void reset();

 private:
  struct Page {
    std::uint64_t number;
    std::uint64_t hash;
  };

  std::optional<std::uint64_t> hash_of(const GuestMemory& memory, std::uint64_t page);
  double changed_share(const GuestMemory& memory);
  void choose_pages(const GuestMemory& memory, std::size_t renew);
  void find_blocks(const GuestMemory& memory);
  std::optional<Page> choose(const GuestMemory& memory, unsigned& tries);

  std::mt19937_64 random_;
  std::vector<Page> pages_;            // the sample
  std::size_t oldest_ = 0;             // in pages_, the next to be replaced
  std::uint64_t block_pages_ = 0;      // pages of a block
  std::vector<std::uint64_t> blocks_;  // with data in them, ascending
  std::vector<std::byte> buffer_;      // one page
  std::optional<TimePoint> last_;      // of the last look
  std::uint64_t populated_ = 0;        // bytes, then
  std::optional<double> rate_;         // bytes a second
};

}  // namespace godwit::memory
