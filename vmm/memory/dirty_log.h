// Which pages of RAM changed: KVM's dirty bitmap (KVM API 4.8, 4.117 MANUAL_DIRTY_LOG_PROTECT2) and the
// VMM's own writes, together. Owned by Machine; one thread at a time (the mover's).
#pragma once

#include "vmm/kvm/kvm.h"
#include "vmm/memory/guest_memory.h"
#include "vmm/memory/page_bitmap.h"

namespace godwit::memory {

class DirtyLog {
 public:
  DirtyLog(kvm::KvmVm& vm, GuestMemory& memory);
  ~DirtyLog();

  /// Starts logging; at first every page counts as dirty (INITIALLY_SET) and none is write-protected.
  void start();
  /// Stops logging and releases what it cost. Idempotent.
  void stop();

  /// ORs into `into` all pages dirtied since they were last cleared. Does not re-protect them.
  void collect(PageBitmap& into);
  /// Forgets `range` and write-protects it again, so that the next write to it is seen. To be called
  /// *before* the pages are sent: what is written while they travel must be dirty for the next round.
  /// `range` must begin and end at a multiple of 64 pages, or end at the end of RAM.
  void clear(PageRange range);

 private:
  kvm::KvmVm& vm_;
  GuestMemory& memory_;
  bool running_ = false;
};

}  // namespace godwit::memory
