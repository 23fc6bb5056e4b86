#include "migration/snapshot_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <lzma.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "migration/page_scan.h"
#include "migration/protocol.h"
#include "vmm/state.h"
#include "vmm/sys/error.h"

namespace godwit::migration {

namespace {

constexpr std::uint64_t kMaxBody = kMaxState + (4 << 20);
constexpr std::size_t kMaxDisks = 64;

std::uint64_t crc64(std::span<const std::byte> bytes, std::uint64_t before = 0) {
  return ::lzma_crc64(reinterpret_cast<const std::uint8_t*>(bytes.data()), bytes.size(), before);
}

Snapshot read_sections(std::span<const std::byte> body) {
  Snapshot snapshot;
  vmm::StateReader reader(body);
  reader.begin("snapshot", kSnapshotVersion, 0);
  const Hello hello = decode_hello(reader.get_array<std::byte>(kMaxJson));
  snapshot.machine = hello.machine;
  snapshot.requirements = hello.requirements;
  reader.begin("disks", kSnapshotVersion, 0);
  snapshot.disks = reader.get_array<DiskStamp>(kMaxDisks);
  if (snapshot.disks.size() != snapshot.machine.disks.size()) reader.fail("of other disks");
  reader.begin("memory", kSnapshotVersion, 0);
  snapshot.id = reader.get<SnapshotId>();
  snapshot.memory_checksum = reader.get<std::uint64_t>();
  reader.begin("state", kSnapshotVersion, 0);
  snapshot.state = reader.get_array<std::byte>(kMaxState);
  reader.finish();
  return snapshot;
}

sys::UniqueFd open_file(const std::string& directory, const char* name) {
  const std::string path = directory + "/" + name;
  sys::UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
  if (!fd) throw SnapshotError(fmt::format("{}: {}", path, std::strerror(errno)));
  struct stat info {};
  if (::fstat(fd.get(), &info) != 0 || !S_ISREG(info.st_mode)) {
    throw SnapshotError(path + ": is no file of a snapshot");
  }
  return fd;
}

std::uint64_t size_of(int fd) {
  struct stat info {};
  sys::check(::fstat(fd, &info), "ask for the size of a snapshot's file");
  return static_cast<std::uint64_t>(info.st_size);
}

std::vector<std::byte> read_all(int fd, std::uint64_t size) {
  std::vector<std::byte> bytes(size);
  for (std::size_t at = 0; at < bytes.size();) {
    const ssize_t got = ::pread(fd, bytes.data() + at, bytes.size() - at, static_cast<off_t>(at));
    if (got < 0 && errno == EINTR) continue;
    sys::check(got, "read a snapshot");
    if (got == 0) throw SnapshotError("it is being truncated");
    at += static_cast<std::size_t>(got);
  }
  return bytes;
}

}  // namespace

SnapshotId new_snapshot_id() {
  SnapshotId id{};
  sys::check(::getrandom(id.data(), sizeof id, 0), "getrandom");
  return id;
}

DiskStamp stamp_of(const vmm::DiskConfig& disk) {
  struct stat info {};
  if (disk.read_only || ::stat(disk.path.c_str(), &info) != 0 || !S_ISREG(info.st_mode)) return {};
  return {info.st_size, info.st_mtim.tv_sec * 1'000'000'000 + info.st_mtim.tv_nsec};
}

std::vector<std::byte> encode_snapshot(const Snapshot& snapshot) {
  Hello hello;
  hello.machine = snapshot.machine;
  hello.requirements = snapshot.requirements;
  const std::string description = encode(hello);
  vmm::StateWriter writer;
  writer.begin("snapshot", kSnapshotVersion, 0);
  writer.put_array(std::as_bytes(std::span(description)));
  writer.begin("disks", kSnapshotVersion, 0);
  writer.put_array(std::span<const DiskStamp>(snapshot.disks));
  writer.begin("memory", kSnapshotVersion, 0);
  writer.put(snapshot.id);
  writer.put(snapshot.memory_checksum);
  writer.begin("state", kSnapshotVersion, 0);
  writer.put_array(std::span<const std::byte>(snapshot.state));
  const std::vector<std::byte> body = writer.finish();
  SnapshotHeader header;
  header.length = body.size();
  header.checksum = crc64(body);
  std::vector<std::byte> file(sizeof header + body.size());
  std::memcpy(file.data(), &header, sizeof header);
  std::copy(body.begin(), body.end(), file.begin() + sizeof header);
  return file;
}

Snapshot decode_snapshot(std::span<const std::byte> file) {
  SnapshotHeader header;
  const SnapshotHeader ours;
  if (file.size() < sizeof header || std::memcmp(file.data(), ours.magic, sizeof ours.magic) != 0) {
    throw SnapshotError("is no snapshot of Godwit");
  }
  std::memcpy(&header, file.data(), sizeof header);
  if (header.version != kSnapshotVersion) {
    throw SnapshotError(
        fmt::format("a snapshot of version {}, this godwit reads version {}: restore it with the "
                    "godwit that took it",
                    header.version, kSnapshotVersion));
  }
  const auto body = file.subspan(sizeof header);
  if (header.length != body.size()) {
    throw SnapshotError(
        fmt::format("truncated or damaged: {} bytes where {} should follow its header", body.size(),
                    header.length));
  }
  if (crc64(body) != header.checksum) throw SnapshotError("damaged: its checksum does not match");
  try {
    return read_sections(body);
  } catch (const std::exception& error) {  // the checksum is right: another godwit wrote it so
    throw SnapshotError(fmt::format("this godwit cannot read it: {}", error.what()));
  }
}

OpenSnapshot open_snapshot(const std::string& directory) {
  OpenSnapshot open;
  const sys::UniqueFd state = open_file(directory, "state");
  const std::uint64_t length = size_of(state.get());
  if (length > sizeof(SnapshotHeader) + kMaxBody) {
    throw SnapshotError(directory + "/state: is no snapshot of Godwit");
  }
  try {
    open.snapshot = decode_snapshot(read_all(state.get(), length));
  } catch (const SnapshotError& error) {
    throw SnapshotError(fmt::format("{}/state: {}", directory, error.what()));
  }
  open.memory = open_file(directory, "memory");
  const std::uint64_t size = size_of(open.memory.get());
  const std::uint64_t ram = open.snapshot.machine.memory_bytes;
  if (size != ram + sizeof(MemoryTrailer)) {
    throw SnapshotError(
        fmt::format("{}/memory: truncated, or of another snapshot: {} bytes, not {}", directory,
                    size, ram + sizeof(MemoryTrailer)));
  }
  MemoryTrailer trailer;
  const MemoryTrailer ours{.id = open.snapshot.id};
  const auto got = ::pread(open.memory.get(), &trailer, sizeof trailer, static_cast<off_t>(ram));
  if (got != static_cast<ssize_t>(sizeof trailer) ||
      std::memcmp(&trailer, &ours, sizeof trailer) != 0) {
    throw SnapshotError(fmt::format("{0}/memory: of another snapshot than {0}/state", directory));
  }
  return open;
}

std::uint64_t checksum_of_memory(int file, std::uint64_t size,
                                 const std::function<void()>& check_point) {
  std::vector<std::byte> chunk(1 << 20);
  std::uint64_t crc = 0;
  for (std::uint64_t at = 0; at < size;) {
    const off_t data = ::lseek(file, static_cast<off_t>(at), SEEK_DATA);
    if (data < 0 && errno == ENXIO) break;  // only holes from here on
    sys::check(data, "find data in a snapshot");
    at = static_cast<std::uint64_t>(data) / memory::kPageSize * memory::kPageSize;
    if (at >= size) break;
    const std::uint64_t length = std::min<std::uint64_t>(chunk.size(), size - at);
    check_point();
    for (std::uint64_t done = 0; done < length;) {
      const auto got = sys::check(
          ::pread(file, chunk.data() + done, length - done, static_cast<off_t>(at + done)),
          "read a snapshot's memory");
      if (got == 0) throw SnapshotError("a snapshot's memory is being truncated");
      done += static_cast<std::uint64_t>(got);
    }
    for (std::uint64_t offset = 0; offset < length; offset += memory::kPageSize) {
      const auto page = std::span<const std::byte>(chunk).subspan(offset, memory::kPageSize);
      if (all_zero(page)) continue;
      const std::uint64_t number = (at + offset) / memory::kPageSize;
      crc = crc64(page, crc64(std::as_bytes(std::span(&number, 1)), crc));
    }
    at += length;
  }
  return crc;
}

}  // namespace godwit::migration
