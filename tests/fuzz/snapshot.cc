// The file "state" of a snapshot; with its checksum put right, so that what lies behind it is read.
#include "migration/snapshot_file.h"

#include <lzma.h>

#include "tests/fuzz/fuzz.h"

namespace godwit::fuzz {

std::vector<Bytes> fuzz_seeds() {
  migration::Snapshot snapshot;
  snapshot.machine.name = "web1";
  snapshot.machine.memory_bytes = 8 << 20;
  snapshot.machine.disks = {{.path = "/srv/disk", .read_only = false}};
  snapshot.requirements = "{}";
  snapshot.disks = {{4096, 1}};
  snapshot.state = std::vector<std::byte>(40, std::byte{7});
  Bytes seed;
  for (const std::byte byte : migration::encode_snapshot(snapshot)) {
    seed.push_back(std::to_integer<std::uint8_t>(byte));
  }
  return {seed};
}

}  // namespace godwit::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace godwit;
  const auto read = [](std::span<const std::byte> file) {
    try {
      migration::decode_snapshot(file);
    } catch (const migration::SnapshotError&) {
      return;
    }
  };
  read(std::as_bytes(std::span(data, size)));
  migration::SnapshotHeader header;
  if (size < sizeof header) return 0;
  std::vector<std::byte> file(size);
  std::memcpy(file.data(), data, size);
  header.length = size - sizeof header;
  header.checksum = ::lzma_crc64(data + sizeof header, size - sizeof header, 0);
  std::memcpy(file.data(), &header, sizeof header);
  read(file);
  return 0;
}
