// A snapshot on disk: a directory with two files.
//
//   memory   guest RAM, byte for byte, holes and zero pages as holes; then a MemoryTrailer
//   state    SnapshotHeader, then the sections of encode_snapshot(): what the machine is, what it
//            needs of its host, its disks, its state; one checksum over all of them
//
// A reader trusts nothing: whatever is wrong is a SnapshotError, one line for the user. Any thread.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "vmm/config.h"
#include "vmm/sys/unique_fd.h"

namespace godwit::migration {

/// Of the files; the sections of the machine's state have versions of their own. Exact match or
/// refuse.
constexpr std::uint32_t kSnapshotVersion = 4;

class SnapshotError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

struct SnapshotHeader {
  char magic[8] = {'G', 'O', 'D', 'W', 'S', 'N', 'A', 'P'};
  std::uint32_t version = kSnapshotVersion;
  std::uint32_t reserved = 0;
  std::uint64_t length = 0;    // bytes that follow
  std::uint64_t checksum = 0;  // CRC-64 (ECMA-182) of them
};
static_assert(sizeof(SnapshotHeader) == 32);

/// Random, the same in both files: memory of another snapshot is known without reading it.
using SnapshotId = std::array<std::uint64_t, 2>;
SnapshotId new_snapshot_id();

struct MemoryTrailer {
  char magic[8] = {'G', 'O', 'D', 'W', 'M', 'E', 'M', '\n'};
  SnapshotId id{};
};
static_assert(sizeof(MemoryTrailer) == 24);

/// What shows that a disk was written to after the snapshot.
struct DiskStamp {
  std::int64_t size = -1;  // bytes; -1: a block device or read-only, whose time tells nothing
  std::int64_t modified_ns = -1;  // since 1970
  bool operator==(const DiskStamp&) const = default;
};
DiskStamp stamp_of(const vmm::DiskConfig& disk);

struct Snapshot {
  vmm::MachineConfig machine;
  std::string requirements;      // Machine::requirements()
  std::vector<DiskStamp> disks;  // one per disk of `machine`
  SnapshotId id{};
  std::uint64_t memory_checksum = 0;
  std::vector<std::byte> state;  // Machine::save()
};

/// The whole file "state", and back.
std::vector<std::byte> encode_snapshot(const Snapshot& snapshot);
Snapshot decode_snapshot(std::span<const std::byte> file);

struct OpenSnapshot {
  Snapshot snapshot;
  sys::UniqueFd memory;  // for reading; the machine's RAM, and more
};
/// Errors name the file.
OpenSnapshot open_snapshot(const std::string& directory);

/// CRC-64 over all pages of a memory file that are not zero, each with its number; so a copy that
/// fills or punches holes has the same. Reads all of it; `check_point` is called every MiB and may
/// throw.
std::uint64_t checksum_of_memory(
    int file, std::uint64_t size, const std::function<void()>& check_point = [] {});

}  // namespace godwit::migration
