#include "vmm/memory/guest_memory.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/falloc.h>
#include <linux/memfd.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <stdexcept>
#include <utility>

#include "vmm/sys/error.h"

namespace godwit::memory {
namespace {

constexpr std::uint64_t kLowRamEnd = std::uint64_t{3} << 30;     // below it RAM, above it devices
constexpr std::uint64_t kHighRamStart = std::uint64_t{4} << 30;  // RAM goes on here
constexpr std::uint64_t kHugePageSize = kHugePagePages * kPageSize;

#ifndef MADV_COLLAPSE  // not in Debian 12's libc
constexpr int MADV_COLLAPSE = 25;
#endif

sys::UniqueFd create_memfd(std::uint64_t size, bool huge_pages) {
  const std::uint64_t unit = huge_pages ? kHugePageSize : kPageSize;
  if (size == 0 || size % unit != 0 || size > static_cast<std::uint64_t>(INT64_MAX)) {
    throw std::invalid_argument("guest memory must be a positive multiple of its page size");
  }
  const unsigned huge = huge_pages ? MFD_HUGETLB | MFD_HUGE_2MB : 0;
  sys::UniqueFd fd(sys::check(::memfd_create("godwit-ram", MFD_CLOEXEC | MFD_ALLOW_SEALING | huge),
                              "memfd_create"));
  sys::check(::ftruncate(fd.get(), static_cast<off_t>(size)), "set the size of guest memory");
  // A memfd that cannot shrink cannot turn our own accesses into SIGBUS.
  sys::check(::fcntl(fd.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW), "seal guest memory");
  return fd;
}

sys::UniqueFd checked_memfd(sys::UniqueFd fd, std::uint64_t size) {
  struct stat info = {};
  sys::check(::fstat(fd.get(), &info), "ask for the size of guest memory");
  const int seals = ::fcntl(fd.get(), F_GET_SEALS);
  if (static_cast<std::uint64_t>(info.st_size) != size || seals < 0 ||
      (seals & F_SEAL_SHRINK) == 0) {
    throw std::invalid_argument("the memory handed over is not guest memory of that size");
  }
  return fd;
}

sys::Mapping map_ram(int memfd, std::uint64_t size, bool huge_pages, int sharing) try {
  // NORESERVE would let huge pages run out under the guest, which is a SIGBUS; so they are
  // reserved.
  return sys::Mapping::aligned(kHugePageSize, size, PROT_READ | PROT_WRITE,
                               sharing | (huge_pages ? 0 : MAP_NORESERVE), memfd);
} catch (const std::system_error& error) {
  if (!huge_pages || error.code() != std::errc::not_enough_memory) throw;
  throw std::system_error(error.code(),
                          fmt::format("--hugepages: guest memory needs {} free huge pages of 2 "
                                      "MiB, and this host has fewer (HugePages_Free "
                                      "in /proc/meminfo): raise vm.nr_hugepages",
                                      size / kHugePageSize));
}

sys::UniqueFd checked_file(sys::UniqueFd file, std::uint64_t size) {
  struct stat info = {};
  sys::check(::fstat(file.get(), &info), "ask for the size of a memory file");
  if (size == 0 || size % kPageSize != 0 || static_cast<std::uint64_t>(info.st_size) < size) {
    throw std::invalid_argument("the memory file is smaller than guest memory");
  }
  return file;
}

sys::UniqueFd open_pagemap() {
  return sys::UniqueFd(
      sys::check(::open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC), "open /proc/self/pagemap"));
}

/// Of all threads, by one read(2); 0 where /proc does not tell.
std::uint64_t anonymous_bytes_of_process() {
  std::ifstream statm("/proc/self/statm");  // pages: total, resident, of these file-backed
  std::uint64_t total = 0;
  std::uint64_t resident = 0;
  std::uint64_t file_backed = 0;
  statm >> total >> resident >> file_backed;
  return resident > file_backed ? (resident - file_backed) * kPageSize : 0;
}

std::vector<Region> regions_of(std::uint64_t size) {
  std::vector<Region> regions = {{0, 0, std::min(size, kLowRamEnd)}};
  if (size > kLowRamEnd) regions.push_back({kHighRamStart, kLowRamEnd, size - kLowRamEnd});
  return regions;
}

/// Runs of resident pages by mincore(2): hugetlbfs knows no SEEK_DATA.
std::vector<PageRange> resident(std::byte* base, PageRange within) {
  constexpr std::uint64_t kChunk = 1 << 18;  // pages: a quarter MiB of answers
  std::vector<unsigned char> present(std::min(within.count, kChunk));
  std::vector<PageRange> runs;
  for (std::uint64_t page = within.first; page < within.end();) {
    const std::uint64_t count = std::min(kChunk, within.end() - page);
    sys::check(::mincore(base + page * kPageSize, count * kPageSize, present.data()), "mincore");
    for (std::uint64_t i = 0; i < count; ++i, ++page) {
      if ((present[i] & 1) == 0) continue;
      if (!runs.empty() && runs.back().end() == page) {
        ++runs.back().count;
      } else {
        runs.push_back({page, 1});
      }
    }
  }
  return runs;
}

}  // namespace

GuestWrite::GuestWrite(GuestWrite&& other) noexcept
    : memory_(std::exchange(other.memory_, nullptr)), bytes_(other.bytes_) {}

GuestWrite::~GuestWrite() {
  if (memory_ == nullptr || bytes_.empty()) return;
  memory_->mark_dirty(static_cast<std::uint64_t>(bytes_.data() - memory_->mapping_.data()),
                      bytes_.size());
}

GuestMemory::GuestMemory(std::uint64_t size, bool huge_pages)
    : GuestMemory(create_memfd(size, huge_pages), {}, size, huge_pages, MAP_SHARED) {}

GuestMemory::GuestMemory(std::uint64_t size, bool huge_pages, GivenRam ram)
    : GuestMemory(ram.shared ? checked_memfd(std::move(ram.file), size)
                             : checked_file(std::move(ram.file), size),
                  ram.shared ? sys::UniqueFd() : open_pagemap(), size, ram.shared && huge_pages,
                  ram.shared ? MAP_SHARED : MAP_PRIVATE) {}

GuestMemory::GuestMemory(sys::UniqueFd file, sys::UniqueFd pagemap, std::uint64_t size,
                         bool huge_pages, int sharing)
    : memfd_(std::move(file)),
      pagemap_(std::move(pagemap)),
      mapping_(map_ram(memfd_.get(), size, huge_pages, sharing)),
      regions_(regions_of(size)),
      huge_pages_(huge_pages),
      expected_(std::make_unique<std::atomic<bool>[]>(size / kHugePageSize)) {}

std::optional<std::uint64_t> GuestMemory::offset_of(GuestAddr address, std::uint64_t size) const {
  for (const Region& region : regions_) {
    if (address < region.guest_addr || address - region.guest_addr >= region.size) continue;
    const std::uint64_t offset = address - region.guest_addr;
    if (size > region.size - offset) return std::nullopt;
    return region.ram_offset + offset;
  }
  return std::nullopt;
}

std::optional<std::span<const std::byte>> GuestMemory::readable(GuestAddr address,
                                                                std::uint64_t size) const {
  const auto offset = offset_of(address, size);
  if (!offset) return std::nullopt;
  return mapping_.bytes().subspan(*offset, size);
}

std::optional<GuestWrite> GuestMemory::writable(GuestAddr address, std::uint64_t size) {
  const auto offset = offset_of(address, size);
  if (!offset) return std::nullopt;
  return GuestWrite(*this, mapping_.bytes().subspan(*offset, size));
}

bool GuestMemory::read(GuestAddr address, std::span<std::byte> out) const {
  const auto from = readable(address, out.size());
  if (!from) return false;
  std::copy(from->begin(), from->end(), out.begin());
  return true;
}

bool GuestMemory::write(GuestAddr address, std::span<const std::byte> in) {
  auto to = writable(address, in.size());
  if (!to) return false;
  std::copy(in.begin(), in.end(), to->bytes().begin());
  return true;
}

void GuestMemory::check(PageRange range) const {
  if (range.first > pages() || range.count > pages() - range.first) {
    throw std::out_of_range("page range outside guest memory");
  }
}

std::span<std::byte> GuestMemory::page_bytes(PageRange range) const {
  check(range);
  return mapping_.bytes().subspan(range.offset(), range.bytes());
}

std::vector<PageRange> GuestMemory::populated(PageRange within) const {
  PageRange seen{};
  return populated(within, seen);
}

std::vector<PageRange> GuestMemory::populated(PageRange within, PageRange& seen) const {
  check(within);
  if (within.count == 0) return {};
  if (huge_pages_) return resident(mapping_.data(), within);
  if (!private_copy()) return data_in_file(within, seen);
  PageBitmap pages(within.count);
  for (const PageRange& range : data_in_file(within, seen)) {
    pages.set({range.first - within.first, range.count});
  }
  add_written(within, pages);
  std::vector<PageRange> runs = pages.ranges();
  for (PageRange& run : runs) run.first += within.first;
  return runs;
}

/// Marks, counted from `within`'s first page, what was written into a private mapping: such a page
/// is in memory and not the file's, or swapped out (Linux, admin-guide/mm/pagemap.rst).
void GuestMemory::add_written(PageRange within, PageBitmap& into) const {
  constexpr std::uint64_t kPresent = std::uint64_t{1} << 63;
  constexpr std::uint64_t kSwapped = std::uint64_t{1} << 62;
  constexpr std::uint64_t kOfFile = std::uint64_t{1} << 61;
  std::array<std::uint64_t, 4096> entries{};
  const std::uint64_t base = reinterpret_cast<std::uintptr_t>(mapping_.data()) / kPageSize;
  for (std::uint64_t at = 0; at < within.count;) {
    const std::uint64_t count = std::min<std::uint64_t>(entries.size(), within.count - at);
    const auto got = sys::check(::pread(pagemap_.get(), entries.data(), count * sizeof(entries[0]),
                                        static_cast<off_t>((base + within.first + at) * 8)),
                                "read /proc/self/pagemap");
    if (static_cast<std::uint64_t>(got) != count * sizeof(entries[0])) {
      throw std::runtime_error("read /proc/self/pagemap: too short");
    }
    for (std::uint64_t i = 0; i < count; ++i) {
      const bool own = (entries[i] & kPresent) != 0 && (entries[i] & kOfFile) == 0;
      if (own || (entries[i] & kSwapped) != 0) into.set({at + i, 1});
    }
    at += count;
  }
}

std::vector<PageRange> GuestMemory::data_in_file(PageRange within, PageRange& seen) const {
  std::vector<PageRange> runs;
  for (std::uint64_t at = within.first; at < within.end();) {
    if (at < seen.first || at >= seen.end()) {
      const off_t data = ::lseek(memfd_.get(), static_cast<off_t>(at * kPageSize), SEEK_DATA);
      if (data < 0 && errno == ENXIO) break;  // only holes from here on
      sys::check(data, "find data in guest memory");
      at = static_cast<std::uint64_t>(data) / kPageSize;
      if (at >= within.end()) break;
      const off_t hole =
          sys::check(::lseek(memfd_.get(), data, SEEK_HOLE), "find a hole in guest memory");
      // Huge page cache folios end where they end: whole pages, also of a transparent huge page.
      seen = {at, (static_cast<std::uint64_t>(hole) + kPageSize - 1) / kPageSize - at};
    }
    const std::uint64_t end = std::min(seen.end(), within.end());
    runs.push_back({at, end - at});
    at = end;
  }
  return runs;
}

std::uint64_t GuestMemory::populated_bytes() const {
  struct stat info = {};
  sys::check(::fstat(memfd_.get(), &info), "ask for the size of guest memory in use");
  const auto bytes = static_cast<std::uint64_t>(info.st_blocks) * 512;  // stat(3type): of 512 bytes
  return private_copy() ? std::min(size(), bytes + anonymous_bytes_of_process()) : bytes;
}

std::uint64_t GuestMemory::data_bytes() const {
  return private_copy() ? pages_in(populated({0, pages()})) * kPageSize : populated_bytes();
}

bool GuestMemory::peek(std::uint64_t page, std::span<std::byte> out) const {
  if (page >= pages() || out.size() != kPageSize) return false;
  unsigned char present = 0;
  std::byte* const at = mapping_.data() + page * kPageSize;
  if (::mincore(at, kPageSize, &present) != 0 || (present & 1) == 0) return false;
  if (private_copy()) {  // a hole that we fill by looking is the page cache's and costs nothing
    std::memcpy(out.data(), at, kPageSize);
    return true;
  }
  // Not through the mapping: there a hole punched meanwhile would be filled by our look at it.
  return ::pread(memfd_.get(), out.data(), kPageSize, static_cast<off_t>(page * kPageSize)) ==
         static_cast<ssize_t>(kPageSize);
}

PageRange GuestMemory::expect_writes(PageRange range) {
  check(range);
  if (huge_pages_ || private_copy()) return {range.first, 0};
  const std::uint64_t begin = (range.first + kHugePagePages - 1) / kHugePagePages;
  const std::uint64_t end = range.end() / kHugePagePages;
  bool backed = begin < end;
  for (std::uint64_t block = begin; block < end;) {
    std::uint64_t fresh = block;
    for (; fresh < end && !expected_[fresh].exchange(true); ++fresh) {
      // A block without any page is refused.
      mapping_.data()[fresh * kHugePageSize] = std::byte{0};
    }
    if (fresh > block) {
      // Without huge pages it works as well, only slower: no error.
      if (::madvise(mapping_.data() + block * kHugePageSize, (fresh - block) * kHugePageSize,
                    MADV_COLLAPSE) != 0) {
        backed = false;
      }
    }
    block = fresh + 1;
  }
  if (!backed) return {range.first, 0};
  return {begin * kHugePagePages, (end - begin) * kHugePagePages};
}

PageRange GuestMemory::pages_of(std::span<const std::byte> bytes) const {
  const auto start = static_cast<std::uint64_t>(bytes.data() - mapping_.data());
  const std::uint64_t first = (start + kPageSize - 1) / kPageSize;
  const std::uint64_t end = (start + bytes.size()) / kPageSize;
  const PageRange range{first, end > first ? end - first : 0};
  if (range.count == 0) return {};
  check(range);
  return range;
}

GuestMemory::Hold::Hold(GuestMemory& memory) : memory_(memory) {
  const std::lock_guard lock(memory_.hold_mutex_);
  ++memory_.holds_;
}

GuestMemory::Hold::~Hold() {
  const std::lock_guard lock(memory_.hold_mutex_);
  --memory_.holds_;
}

bool GuestMemory::give_back(PageRange range) {
  check(range);
  if (huge_pages_) {
    const std::uint64_t first =
        (range.first + kHugePagePages - 1) / kHugePagePages * kHugePagePages;
    const std::uint64_t end = range.end() / kHugePagePages * kHugePagePages;
    range = {first, end > first ? end - first : 0};
  }
  // Under the lock: whoever takes hold after us finds the hole, whoever did before is obeyed.
  const std::lock_guard lock(hold_mutex_);
  if (holds_ != 0) return false;
  if (range.count != 0) punch_hole(range);
  return true;
}

void GuestMemory::punch_hole(PageRange range) {
  check(range);
  if (range.count == 0) return;
  if (private_copy()) return zero_private(range);
  sys::check(::fallocate(memfd_.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                         static_cast<off_t>(range.offset()), static_cast<off_t>(range.bytes())),
             "punch a hole into guest memory");
}

/// What a guest gives back in blocks of 2 MiB becomes anonymous memory; for less, the number of
/// mappings that a process may have (65,530) is too dear.
void GuestMemory::zero_private(PageRange range) {
  std::byte* const at = mapping_.data() + range.offset();
  if (range.count >= kHugePagePages &&
      ::mmap(at, range.bytes(), PROT_READ | PROT_WRITE,
             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0) != MAP_FAILED) {
    return;
  }
  sys::check(::madvise(at, range.bytes(), MADV_DONTNEED), "give back guest memory");
  PageRange seen{};
  for (const PageRange& data : data_in_file(range, seen)) {
    std::memset(mapping_.data() + data.offset(), 0, data.bytes());
  }
}

void GuestMemory::track_writes(bool on) {
  if (on && !writes_) {
    writes_ = std::make_unique<std::atomic<std::uint64_t>[]>((pages() + 63) / 64);
  }
  tracking_.store(on, std::memory_order_release);
}

void GuestMemory::collect_writes(PageBitmap& into) {
  if (into.pages() != pages()) throw std::invalid_argument("bitmap of another size than RAM");
  if (!writes_) return;
  const std::span<std::uint64_t> words = into.words();
  for (std::size_t i = 0; i < words.size(); ++i) {
    if (writes_[i].load(std::memory_order_relaxed) == 0) continue;
    words[i] |= writes_[i].exchange(0, std::memory_order_acquire);
  }
}

void GuestMemory::mark_dirty(std::uint64_t ram_offset, std::uint64_t size) {
  if (size == 0 || !tracking_.load(std::memory_order_acquire)) return;
  if (ram_offset >= this->size() || size > this->size() - ram_offset) {
    throw std::out_of_range("dirty bytes outside guest memory");
  }
  const std::uint64_t last = (ram_offset + size - 1) / kPageSize;
  for (std::uint64_t page = ram_offset / kPageSize; page <= last; ++page) {
    // Release: who sees the bit also sees the bytes.
    writes_[page / 64].fetch_or(std::uint64_t{1} << (page % 64), std::memory_order_release);
  }
}

}  // namespace godwit::memory
