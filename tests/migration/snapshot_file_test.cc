#include "migration/snapshot_file.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <fstream>

namespace godwit::migration {
namespace {

Snapshot sample() {
  Snapshot snapshot;
  snapshot.machine.name = "web1";
  snapshot.machine.memory_bytes = 8 << 20;
  snapshot.machine.kernel = "/srv/kernel";
  snapshot.machine.disks = {{.path = "/srv/disk", .read_only = true}};
  snapshot.requirements = "{}";
  snapshot.disks = {{4096, 17}};
  snapshot.id = {7, 8};
  snapshot.memory_checksum = 42;
  snapshot.state = {std::byte{1}, std::byte{2}};
  return snapshot;
}

std::string complaint(std::span<const std::byte> file) {
  try {
    decode_snapshot(file);
  } catch (const SnapshotError& error) {
    return error.what();
  }
  return {};
}

TEST(SnapshotFile, ComesBackAsItWas) {
  const Snapshot snapshot = decode_snapshot(encode_snapshot(sample()));
  EXPECT_EQ(snapshot.machine.name, "web1");
  EXPECT_EQ(snapshot.machine.memory_bytes, 8u << 20);
  EXPECT_EQ(snapshot.machine.disks, sample().machine.disks);
  EXPECT_EQ(snapshot.requirements, "{}");
  EXPECT_EQ(snapshot.disks, sample().disks);
  EXPECT_EQ(snapshot.id, sample().id);
  EXPECT_EQ(snapshot.memory_checksum, 42u);
  EXPECT_EQ(snapshot.state, sample().state);
}

TEST(SnapshotFile, RefusesEveryTruncationAndEveryFlippedBit) {
  const std::vector<std::byte> file = encode_snapshot(sample());
  for (std::size_t size = 0; size < file.size(); ++size) {
    EXPECT_NE(complaint(std::span(file).first(size)), "") << size;
  }
  for (std::size_t i = 0; i < file.size(); ++i) {
    if (i >= 12 && i < 16) continue;  // reserved
    std::vector<std::byte> damaged = file;
    damaged[i] ^= std::byte{0x10};
    EXPECT_NE(complaint(damaged), "") << i;
  }
}

TEST(SnapshotFile, SaysWhatIsWrong) {
  std::vector<std::byte> file = encode_snapshot(sample());
  EXPECT_EQ(complaint({}), "is no snapshot of Godwit");
  EXPECT_EQ(complaint(std::span(file).first(40)).substr(0, 20), "truncated or damaged");
  file.back() ^= std::byte{1};
  EXPECT_EQ(complaint(file), "damaged: its checksum does not match");
  file[8] = std::byte{9};
  EXPECT_EQ(complaint(file),
            "a snapshot of version 9, this godwit reads version 4: restore it with the godwit that "
            "took it");
  file[0] = std::byte{'X'};
  EXPECT_EQ(complaint(file), "is no snapshot of Godwit");
}

TEST(SnapshotFile, RefusesAListOfDisksThatIsNotTheMachines) {
  Snapshot snapshot = sample();
  snapshot.disks.emplace_back();
  EXPECT_NE(complaint(encode_snapshot(snapshot)).find("disks"), std::string::npos);
}

class SnapshotDirectory : public testing::Test {
 protected:
  SnapshotDirectory() {
    std::filesystem::create_directories(directory_);
    const auto file = encode_snapshot(sample());
    std::ofstream(directory_ + "/state")
        .write(reinterpret_cast<const char*>(file.data()),
               static_cast<std::streamsize>(file.size()));
    write_memory(sample().id);
  }
  void write_memory(const SnapshotId& id) const {
    const MemoryTrailer trailer{.id = id};
    std::ofstream memory(directory_ + "/memory");
    memory.seekp(8 << 20);
    memory.write(reinterpret_cast<const char*>(&trailer), sizeof trailer);
  }
  ~SnapshotDirectory() override { std::filesystem::remove_all(directory_); }
  std::string complaint_of_open() const {
    try {
      open_snapshot(directory_);
    } catch (const SnapshotError& error) {
      return error.what();
    }
    return {};
  }
  const std::string directory_ =
      testing::TempDir() + "godwit_snapshot_file_" + std::to_string(::getpid());
};

TEST_F(SnapshotDirectory, OpensBothFiles) {
  const OpenSnapshot open = open_snapshot(directory_);
  EXPECT_EQ(open.snapshot.machine.name, "web1");
  EXPECT_TRUE(open.memory);
}

TEST_F(SnapshotDirectory, RefusesMemoryOfAnotherSnapshot) {
  write_memory({7, 9});
  EXPECT_EQ(complaint_of_open(),
            directory_ + "/memory: of another snapshot than " + directory_ + "/state");
}

TEST_F(SnapshotDirectory, NamesTheFileThatIsWrong) {
  std::filesystem::resize_file(directory_ + "/memory", 4 << 20);
  EXPECT_EQ(complaint_of_open(), directory_ +
                                     "/memory: truncated, or of another snapshot: 4194304 bytes, "
                                     "not 8388632");
  std::filesystem::remove(directory_ + "/memory");
  EXPECT_EQ(complaint_of_open(), directory_ + "/memory: No such file or directory");
  std::filesystem::resize_file(directory_ + "/state", 40);
  EXPECT_EQ(complaint_of_open().substr(0, directory_.size() + 27),
            directory_ + "/state: truncated or damage");
  std::filesystem::remove(directory_ + "/state");
  std::filesystem::create_directory(directory_ + "/state");
  EXPECT_EQ(complaint_of_open(), directory_ + "/state: is no file of a snapshot");
}

TEST_F(SnapshotDirectory, TheChecksumOfMemoryIsThatOfItsPagesWhereverThereAreHoles) {
  const std::string path = directory_ + "/memory";
  const sys::UniqueFd file(::open(path.c_str(), O_RDWR));
  const std::uint64_t empty = checksum_of_memory(file.get(), 8 << 20);
  ASSERT_EQ(::pwrite(file.get(), "x", 1, 5 << 20), 1);
  const std::uint64_t one = checksum_of_memory(file.get(), 8 << 20);
  EXPECT_NE(one, empty);
  const std::vector<char> zeroes(1 << 20);
  ASSERT_EQ(::pwrite(file.get(), zeroes.data(), zeroes.size(), 1 << 20), 1 << 20);
  EXPECT_EQ(checksum_of_memory(file.get(), 8 << 20), one);
  ASSERT_EQ(::pwrite(file.get(), "\0", 1, 5 << 20), 1);
  ASSERT_EQ(::pwrite(file.get(), "x", 1, 6 << 20), 1);
  EXPECT_NE(checksum_of_memory(file.get(), 8 << 20), one);
}

}  // namespace
}  // namespace godwit::migration
