#include "vmm/devices/virtio/disk_image.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <stdexcept>
#include <system_error>

#include "tests/vmm/devices/virtio/blk_fixture.h"

namespace godwit::devices {
namespace {

std::string error_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const std::exception& error) {
    return error.what();
  }
  return "";
}

TEST(DiskImage, KnowsItsSizeInWholeSectors) {
  const ScratchFile file(4096 + 100);
  const DiskImage image(file.path, false);
  EXPECT_EQ(image.sectors(), 8u);
  EXPECT_FALSE(image.block_device());
}

TEST(DiskImage, RefusesWhatIsNoImageInOneClearLine) {
  const ScratchFile empty(0);
  EXPECT_NE(error_of([&] { DiskImage(empty.path, false); }).find("is empty"), std::string::npos);
  EXPECT_NE(error_of([&] { DiskImage("/", true); }).find("neither a regular file"),
            std::string::npos);
  EXPECT_NE(error_of([&] { DiskImage("/dev/null", true); }).find("neither a regular file"),
            std::string::npos);
  EXPECT_NE(error_of([&] { DiskImage("/no/such/image", true); }).find("/no/such/image"),
            std::string::npos);
  const std::string fifo = empty.path + ".fifo";
  ASSERT_EQ(::mkfifo(fifo.c_str(), 0600), 0);
  EXPECT_NE(error_of([&] { DiskImage(fifo, true); }).find("neither a regular file"),
            std::string::npos);
  ::unlink(fifo.c_str());
}

TEST(DiskImage, SaysWhereThereIsNoDirectIo) {
  const std::string why = error_of([] { DiskImage("/proc/version", true, true); });
  EXPECT_NE(why.find("use cache=writeback"), std::string::npos) << why;
}

TEST(DiskImage, OneWriterOrManyReaders) {
  const ScratchFile file(1 << 20);
  DiskImage writer(file.path, false), other(file.path, false);
  DiskImage reader(file.path, true), second(file.path, true);
  writer.lock();
  writer.lock();
  EXPECT_NE(error_of([&] { other.lock(); }).find("in use"), std::string::npos);
  EXPECT_NE(error_of([&] { reader.lock(); }).find(file.path), std::string::npos);
  writer.unlock();
  writer.unlock();
  reader.lock();
  second.lock();
  EXPECT_NE(error_of([&] { other.lock(); }).find("in use"), std::string::npos);
  reader.unlock();
  second.unlock();
  EXPECT_NO_THROW(other.lock());
}

TEST(DiskImage, ALockIsSeenByOthersAndNotByWhoHasIt) {
  const ScratchFile file(1 << 20);
  DiskImage image(file.path, false);
  DiskImage other(file.path, false);
  EXPECT_FALSE(other.locked_elsewhere());
  image.lock();
  EXPECT_TRUE(other.locked_elsewhere());
  EXPECT_FALSE(image.locked_elsewhere());
  image.unlock();
  EXPECT_FALSE(other.locked_elsewhere());
}

TEST(DiskImage, AMarkIsSeenByOthersEachTimeAndChangesNoByte) {
  const ScratchFile file(1 << 20);
  DiskImage image(file.path, false);
  const DiskImage other(file.path, true);
  ASSERT_EQ(::pwrite(image.fd(), "content", 7, 0), 7);  // just now, by the file system's clock
  for (int i = 0; i < 3; ++i) {
    const std::int64_t before = other.stamp();
    EXPECT_EQ(other.stamp(), before);
    image.mark();
    EXPECT_NE(other.stamp(), before);
  }
  char read[7];
  ASSERT_EQ(::pread(other.fd(), read, sizeof read, 0), 7);
  EXPECT_EQ(std::string(read, sizeof read), "content");
  EXPECT_EQ(other.sectors(), 2048u);
}

TEST(DiskImage, NamesTheProcessThatHoldsIt) {
  const ScratchFile file(1 << 20);
  int ready[2];
  ASSERT_EQ(::pipe(ready), 0);
  const pid_t child = ::fork();
  if (child == 0) {
    DiskImage holder(file.path, false);
    holder.lock();
    if (::write(ready[1], "x", 1) != 1) ::_exit(1);
    ::pause();
    ::_exit(0);
  }
  char byte = 0;
  ASSERT_EQ(::read(ready[0], &byte, 1), 1);
  DiskImage image(file.path, false);
  EXPECT_NE(error_of([&] { image.lock(); }).find("by process " + std::to_string(child)),
            std::string::npos);
  ::kill(child, SIGKILL);
  ::waitpid(child, nullptr, 0);
  EXPECT_NO_THROW(image.lock());  // a dead holder holds nothing
  ::close(ready[0]);
  ::close(ready[1]);
}

}  // namespace
}  // namespace godwit::devices
