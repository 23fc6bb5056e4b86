// The destination's RAM while pages of it are still at the source. RAM is mapped twice: pages land
// in a mapping of their own, and faults on the guest's are answered once a page is whole
// (userfaultfd, minor faults), so that nobody ever sees half a page. One thread; it must never
// touch guest RAM itself, but for landing().
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "vmm/memory/guest_memory.h"
#include "vmm/memory/page_bitmap.h"
#include "vmm/sys/mapping.h"
#include "vmm/sys/userfault.h"

namespace godwit::migration {

class MissingPages {
 public:
  /// From now on whoever looks at one of the `missing` pages, or at a hole, waits for
  /// take_faults(). `memory` must outlive it. Throws std::system_error, std::runtime_error.
  MissingPages(memory::GuestMemory& memory, memory::PageBitmap missing);
  MissingPages(const MissingPages&) = delete;
  MissingPages& operator=(const MissingPages&) = delete;

  /// Readable when somebody has had a fault.
  int fd() const { return user_fault_.fd(); }
  /// Lets those go on whose pages are here; returns the others' pages, each one once.
  std::vector<memory::PageRange> take_faults();
  /// Pages that somebody waits for.
  std::vector<memory::PageRange> waited_for() const { return asked_.ranges(); }

  /// Where pages land, the second mapping.
  std::span<std::byte> landing(const memory::PageRange& range) const;
  /// Throws ChannelError unless all of `range` is missing: a page comes once, or a second copy
  /// would overwrite what the guest has made of it.
  void require_missing(const memory::PageRange& range) const;
  /// These have landed whole.
  void arrived(const memory::PageRange& range);
  /// These are zero; nothing has landed.
  void arrived_as_zero(const memory::PageRange& range);
  /// All of RAM as it is, and nobody waits any more: at the end, or where the guest never runs
  /// here.
  void release();

  const memory::PageBitmap& missing() const { return missing_; }
  std::uint64_t left() const { return left_; }      // pages; any thread
  std::uint64_t faults() const { return faults_; }  // that had to wait for the source; any thread

 private:
  std::span<std::byte> guest_bytes(const memory::PageRange& range) const;
  void note(const memory::PageRange& range);

  memory::GuestMemory& memory_;
  const memory::GuestMemory::Hold hold_;  // no balloon makes holes meanwhile
  sys::Mapping landing_;
  memory::PageBitmap missing_;
  memory::PageBitmap asked_;  // and waited for
  std::atomic<std::uint64_t> left_ = 0;
  std::atomic<std::uint64_t> faults_ = 0;
  sys::UserFault user_fault_;  // last: closed first
};

}  // namespace godwit::migration
