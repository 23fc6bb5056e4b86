#include "vmm/memory/dirty_log.h"

#include <algorithm>
#include <stdexcept>

namespace godwit::memory {

DirtyLog::DirtyLog(kvm::KvmVm& vm, GuestMemory& memory) : vm_(vm), memory_(memory) {
  const auto offered =
      static_cast<std::uint64_t>(vm_.check_extension(KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2));
  manual_ = (offered & KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE) != 0;
  initially_set_ = manual_ && (offered & KVM_DIRTY_LOG_INITIALLY_SET) != 0;
  if (manual_) {
    vm_.enable_cap(
        KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2,
        KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE | (initially_set_ ? KVM_DIRTY_LOG_INITIALLY_SET : 0));
  }
  set_slots(0);
}

DirtyLog::~DirtyLog() = default;

void DirtyLog::set_slots(std::uint32_t flags) {
  std::uint32_t slot = 0;
  for (const Region& region : memory_.regions()) {
    vm_.set_user_memory_region(
        slot++, flags, region.guest_addr,
        memory_.page_bytes({region.ram_offset / kPageSize, region.size / kPageSize}));
  }
}

void DirtyLog::start() {
  stop();
  reported_ = PageBitmap(memory_.pages());
  memory_.track_writes(true);
  PageBitmap stale(memory_.pages());
  memory_.collect_writes(stale);  // of an earlier run of the log; all pages are dirty anyway
  running_ = true;
  set_slots(KVM_MEM_LOG_DIRTY_PAGES);
  if (!initially_set_) reported_.set({0, memory_.pages()});
}

void DirtyLog::stop() {
  if (!running_) return;
  running_ = false;
  memory_.track_writes(false);
  reported_ = PageBitmap(0);
  set_slots(0);
}

void DirtyLog::collect(PageBitmap& into) {
  if (!running_) throw std::logic_error("the dirty log is off");
  memory_.collect_writes(reported_);
  std::vector<std::uint64_t> log;
  std::uint32_t slot = 0;
  for (const Region& region : memory_.regions()) {
    // Regions begin at a multiple of 64 pages: their logs are whole words of the bitmap.
    log.assign((region.size / kPageSize + 63) / 64, 0);
    vm_.get_dirty_log(slot++, log);
    const auto words = reported_.words().subspan(region.ram_offset / kPageSize / 64, log.size());
    for (std::size_t i = 0; i < log.size(); ++i) words[i] |= log[i];
  }
  into |= reported_;
}

void DirtyLog::clear(PageRange range) {
  if (!running_) throw std::logic_error("the dirty log is off");
  if (range.first > memory_.pages() || range.count > memory_.pages() - range.first) {
    throw std::out_of_range("page range outside guest memory");
  }
  if (range.first % 64 != 0 || (range.end() % 64 != 0 && range.end() != memory_.pages())) {
    throw std::invalid_argument("the dirty log is cleared by multiples of 64 pages");
  }
  std::uint32_t slot = 0;
  for (const Region& region : memory_.regions()) {
    const std::uint64_t region_first = region.ram_offset / kPageSize;
    const std::uint64_t first = std::max(range.first, region_first);
    const std::uint64_t end = std::min(range.end(), region_first + region.size / kPageSize);
    if (manual_ && first < end) {
      constexpr std::uint64_t kMost = 1 << 30;  // pages a call: num_pages has 32 bits
      for (std::uint64_t at = first; at < end; at += kMost) {
        vm_.clear_dirty_log(slot, at - region_first,
                            static_cast<std::uint32_t>(std::min(kMost, end - at)),
                            reported_.words().subspan(at / 64));
      }
    }
    ++slot;
  }
  reported_.reset(range);
}

}  // namespace godwit::memory
