// Guest RAM: one shared memfd, mapped once and contiguously, shown to the guest as one or two
// regions (below and above the 32-bit MMIO hole). Owned by Machine; every method may be called from
// any thread. It is the one accessor: each write the VMM itself makes into RAM is recorded here,
// because KVM's dirty log does not see it.
//
// The RAM of a guest that was restored from a snapshot is a private mapping of the snapshot's file
// instead: read when it is touched, shared with the file's other guests until it is written.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <type_traits>
#include <vector>

#include "vmm/memory/page_bitmap.h"
#include "vmm/memory/page_range.h"
#include "vmm/sys/mapping.h"
#include "vmm/sys/unique_fd.h"

namespace godwit::memory {

using GuestAddr = std::uint64_t;  // guest-physical address, bytes

struct Region {
  GuestAddr guest_addr;      // where the guest sees it
  std::uint64_t ram_offset;  // where it starts in RAM (the memfd), bytes
  std::uint64_t size;        // bytes
};

class GuestMemory;

/// RAM with something in it. Shared: `file` is the memfd of another GuestMemory, of this process or
/// another, and both are the same RAM. Else it is a private copy, made page by page as the guest
/// writes, of `file`, which is open for reading, and which nobody may write or truncate meanwhile;
/// nothing is read yet, and huge pages are not used.
struct GivenRam {
  sys::UniqueFd file;
  bool shared = false;
};

/// Guest RAM that is about to be written, by us or by the kernel on our behalf (a disk read). The
/// pages are marked dirty when this object goes, that is after the last byte was written; so
/// destroy it before telling the guest that the data is there.
class GuestWrite {
 public:
  GuestWrite(GuestWrite&& other) noexcept;
  GuestWrite& operator=(GuestWrite&&) = delete;
  GuestWrite(const GuestWrite&) = delete;
  ~GuestWrite();
  std::span<std::byte> bytes() const { return bytes_; }
  /// Nothing was written after all: no page is marked.
  void unwritten() { bytes_ = {}; }

 private:
  friend class GuestMemory;
  GuestWrite(GuestMemory& memory, std::span<std::byte> bytes) : memory_(&memory), bytes_(bytes) {}
  GuestMemory* memory_;
  std::span<std::byte> bytes_;
};

class GuestMemory {
 public:
  /// `size`: bytes, a multiple of 4 KiB (of 2 MiB with `huge_pages`). RAM starts as holes: nothing
  /// is populated. Throws std::system_error (ENOMEM when no huge pages are free) and
  /// std::invalid_argument.
  explicit GuestMemory(std::uint64_t size, bool huge_pages = false);
  /// RAM that is there already, of just this size; std::invalid_argument if it is not.
  GuestMemory(std::uint64_t size, bool huge_pages, GivenRam ram);

  std::uint64_t size() const { return mapping_.size(); }
  std::uint64_t pages() const { return size() / kPageSize; }
  std::span<const Region> regions() const { return regions_; }
  int memfd() const { return memfd_.get(); }
  /// memfd() is a snapshot's file, and RAM a private copy of it: only our own mapping has what the
  /// guest wrote.
  bool private_copy() const { return static_cast<bool>(pagemap_); }

  /// Pages may be written to memfd() past the mapping. Not huge pages, which take no write(2).
  bool takes_file_writes() const { return !huge_pages_ && !private_copy() && !keep_mapped_; }
  /// From now on they may not: userfaultfd is going to watch the mapping, and what is not mapped
  /// would be a fault though it is there. Before other threads write.
  void keep_mapped() { keep_mapped_ = true; }

  // -- by guest address: what devices and loaders use. Nothing here throws; outside RAM, across a
  // region's end or overflowing is std::nullopt / false.
  std::optional<std::span<const std::byte>> readable(GuestAddr address, std::uint64_t size) const;
  std::optional<GuestWrite> writable(GuestAddr address, std::uint64_t size);
  bool read(GuestAddr address, std::span<std::byte> out) const;
  bool write(GuestAddr address, std::span<const std::byte> in);
  template <typename T>
  std::optional<T> load(GuestAddr address) const {
    static_assert(std::is_trivially_copyable_v<T>);
    T value;
    if (!read(address, std::as_writable_bytes(std::span(&value, 1)))) return std::nullopt;
    return value;
  }
  template <typename T>
  bool store(GuestAddr address, const T& value) {
    static_assert(std::is_trivially_copyable_v<T>);
    return write(address, std::as_bytes(std::span(&value, 1)));
  }

  // -- by page: what migration uses. `range` must lie inside RAM, else std::out_of_range.
  std::span<std::byte> page_bytes(PageRange range) const;  // no dirty mark: the mover's own view
  /// Runs of pages inside `within` that hold data (SEEK_DATA; of a private copy also what was
  /// written since), ascending; the rest are holes, that is zero and not populated.
  std::vector<PageRange> populated(PageRange within) const;
  /// The same for who asks for one chunk after the other, ascending. `seen`, empty at first,
  /// carries the run of data that the last chunk ended in: SEEK_HOLE knows no end, and without it
  /// every call follows that run to the last of its pages. What is given back meanwhile may still
  /// count as data.
  std::vector<PageRange> populated(PageRange within, PageRange& seen) const;
  /// Bytes of RAM that are populated, by one fstat(2). Of a private copy at most: its file's and
  /// all that this process has written anywhere.
  std::uint64_t populated_bytes() const;
  /// The same exactly: of a private copy by a look at every page.
  std::uint64_t data_bytes() const;
  /// Copies one page, kPageSize bytes, to `out`; false when it is not in memory (a hole, or swapped
  /// out) or not in RAM. Populates nothing, whatever happens to the page meanwhile.
  bool peek(std::uint64_t page, std::span<std::byte> out) const;
  /// All of `range` is about to be written: backs each 2 MiB of guest RAM that lies wholly inside
  /// it by one page, once, where the kernel can (MADV_COLLAPSE, Linux 6.1). That is one fault and
  /// one nested page table entry instead of 512, and 30 times less to tear down. What it held may
  /// be lost. Several threads may, for pages that do not share 2 MiB. Returns those blocks, none
  /// where the kernel could not now; the rest of `range`, before and after, is as it was.
  PageRange expect_writes(PageRange range);
  /// The pages that lie wholly inside bytes of RAM, as readable() and writable() give them.
  PageRange pages_of(std::span<const std::byte> bytes) const;
  /// While one exists, give_back() gives nothing back: a move registers pages with a NIC, which
  /// goes on using those that a hole has replaced. Any thread; several may exist.
  class Hold {
   public:
    explicit Hold(GuestMemory& memory);
    ~Hold();
    Hold(const Hold&) = delete;
    Hold& operator=(const Hold&) = delete;

   private:
    GuestMemory& memory_;
  };
  /// Gives pages that the guest has no use for back to the host: they become holes, read as zero
  /// and are not marked dirty. With huge pages only those that are covered whole. False, and
  /// nothing happens, while memory is held.
  bool give_back(PageRange range);
  /// Makes holes of pages, held or not: for who holds memory. They read as zero. (Of a private
  /// copy, small ranges that have data in the file are overwritten with zeroes instead.)
  void punch_hole(PageRange range);

  // -- the VMM's own writes
  /// From now on writes through this class are recorded (off by default).
  void track_writes(bool on);
  /// ORs the recorded pages into `into` and forgets them.
  void collect_writes(PageBitmap& into);
  /// Records a write of RAM bytes; only for writes that cannot go through GuestWrite.
  void mark_dirty(std::uint64_t ram_offset, std::uint64_t size);

 private:
  friend class GuestWrite;
  GuestMemory(sys::UniqueFd file, sys::UniqueFd pagemap, std::uint64_t size, bool huge_pages,
              int sharing);
  friend class Hold;
  void check(PageRange range) const;
  std::vector<PageRange> data_in_file(PageRange within, PageRange& seen) const;
  void add_written(PageRange within, PageBitmap& into) const;
  void zero_private(PageRange range);
  /// RAM offset of [address, address + size) or nullopt.
  std::optional<std::uint64_t> offset_of(GuestAddr address, std::uint64_t size) const;

  sys::UniqueFd memfd_;
  sys::UniqueFd pagemap_;  // of this process; only for a private copy
  sys::Mapping mapping_;
  std::vector<Region> regions_;
  bool huge_pages_;
  bool keep_mapped_ = false;
  std::mutex hold_mutex_;
  unsigned holds_ = 0;
  // 2 MiB blocks that expect_writes() has seen; a byte each: threads set neighbours
  std::unique_ptr<std::atomic<bool>[]> expected_;
  std::atomic<bool> tracking_ = false;
  std::unique_ptr<std::atomic<std::uint64_t>[]> writes_;  // one bit a page
};

}  // namespace godwit::memory
