// Which pages of RAM changed: KVM's dirty bitmap (KVM API 4.8, 4.117 MANUAL_DIRTY_LOG_PROTECT2) and
// the VMM's own writes, together. Owned by Machine; one thread at a time (the mover's). RAM's
// region i is KVM's memory slot i.
#pragma once

#include "vmm/kvm/kvm.h"
#include "vmm/memory/guest_memory.h"
#include "vmm/memory/page_bitmap.h"

namespace godwit::memory {

class DirtyLog {
 public:
  /// Also gives RAM to the guest: registers the memory slots.
  DirtyLog(kvm::KvmVm& vm, GuestMemory& memory);
  ~DirtyLog();
  DirtyLog(const DirtyLog&) = delete;
  DirtyLog& operator=(const DirtyLog&) = delete;

  /// Starts logging; at first every page counts as dirty (INITIALLY_SET) and none is
  /// write-protected.
  void start();
  /// Stops logging and releases what it cost. Idempotent.
  void stop();

  /// ORs into `into` all pages dirtied since they were last cleared. Does not re-protect them.
  void collect(PageBitmap& into);
  /// Forgets those pages of `range` that collect() has reported, and write-protects them again, so
  /// that the next write to them is seen; pages dirtied since the last collect() stay dirty. To be
  /// called *before* the pages are sent: what is written while they travel must be dirty for the
  /// next round. `range` must begin and end at a multiple of 64 pages, or end at the end of RAM.
  void clear(PageRange range);

 private:
  void set_slots(std::uint32_t flags);

  kvm::KvmVm& vm_;
  GuestMemory& memory_;
  bool manual_;         // KVM_CLEAR_DIRTY_LOG protects; else reading the log does
  bool initially_set_;  // KVM itself begins with every page dirty
  bool running_ = false;
  PageBitmap reported_{0};  // by collect() and not cleared since; sized while running
};

}  // namespace godwit::memory
