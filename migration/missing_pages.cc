#include "migration/missing_pages.h"

#include <sys/mman.h>

#include <utility>

#include "migration/channel.h"
#include "vmm/sys/error.h"

namespace godwit::migration {

using memory::kPageSize;
using memory::PageBitmap;
using memory::PageRange;

MissingPages::MissingPages(memory::GuestMemory& memory, PageBitmap missing)
    : memory_(memory),
      hold_(memory),
      landing_(memory.size(), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, memory.memfd(),
               0),
      missing_(std::move(missing)),
      asked_(memory.pages()),
      left_(missing_.count()) {
  user_fault_.watch(guest_bytes({0, memory.pages()}));
  // What came of them earlier is out of date: it goes from the guest's page tables, KVM's too.
  for (const PageRange& range : missing_.ranges()) {
    const auto bytes = guest_bytes(range);
    sys::check(::madvise(bytes.data(), bytes.size(), MADV_DONTNEED), "unmap missing pages");
  }
}

std::span<std::byte> MissingPages::guest_bytes(const PageRange& range) const {
  return memory_.page_bytes(range);
}

std::span<std::byte> MissingPages::landing(const PageRange& range) const {
  return landing_.bytes().subspan(range.offset(), range.bytes());
}

std::vector<PageRange> MissingPages::take_faults() {
  const auto base = reinterpret_cast<std::uint64_t>(guest_bytes({0, memory_.pages()}).data());
  std::vector<PageRange> wanted;
  while (const auto fault = user_fault_.next()) {
    const PageRange page{(fault->address - base) / kPageSize, 1};
    if (!missing_.test(page.first)) {
      if (fault->minor) {
        user_fault_.map(guest_bytes(page));
      } else {
        user_fault_.map_zero(guest_bytes(page));
      }
    } else if (!asked_.test(page.first)) {
      asked_.set(page);
      ++faults_;
      wanted.push_back(page);
    }
  }
  return wanted;
}

void MissingPages::require_missing(const PageRange& range) const {
  for (std::uint64_t page = range.first; page < range.end(); ++page) {
    if (!missing_.test(page)) throw ChannelError("the peer sent a page that was not missing");
  }
}

void MissingPages::note(const PageRange& range) {
  missing_.reset(range);
  asked_.reset(range);
  left_ -= range.count;
}

void MissingPages::arrived(const PageRange& range) {
  note(range);
  user_fault_.map(guest_bytes(range));
}

void MissingPages::arrived_as_zero(const PageRange& range) {
  memory_.punch_hole(range);
  const auto waited = asked_.ranges(range);
  note(range);
  for (const PageRange& page : waited) user_fault_.map_zero(guest_bytes(page));
}

void MissingPages::release() { user_fault_.release(guest_bytes({0, memory_.pages()})); }

}  // namespace godwit::migration
