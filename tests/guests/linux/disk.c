// Direct I/O that proves itself: blocks of full-word patterns, each with its number and a
// generation, are written, flushed now and then, and others read back and compared.
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "workload.h"

enum { kBlockSize = 65536, kBlockWords = kBlockSize / 8, kFlushEvery = 16 };

static int disk = -1;
static unsigned long block_count;
static uint32_t* generation;  // of each block; 0: not written yet
static uint64_t* buffer;
static unsigned long disk_rate_kib;
static pthread_mutex_t disk_lock = PTHREAD_MUTEX_INITIALIZER;
static atomic_ulong done;

static uint64_t value_of(unsigned long block, unsigned word) {
  return (uint64_t)generation[block] << 48 | (uint64_t)block << 16 | word;
}

static void write_block(unsigned long block) {
  ++generation[block];
  for (unsigned i = 0; i < kBlockWords; ++i) buffer[i] = value_of(block, i);
  const ssize_t n = pwrite(disk, buffer, kBlockSize, (off_t)(block * kBlockSize));
  if (n != kBlockSize) corrupt("disk write of block %lu: %zd, %s", block, n, strerror(errno));
}

static void check_block(unsigned long block) {
  if (generation[block] == 0) return;
  memset(buffer, 0xee, kBlockSize);
  const ssize_t n = pread(disk, buffer, kBlockSize, (off_t)(block * kBlockSize));
  if (n != kBlockSize) {
    corrupt("disk read of block %lu: %zd, %s", block, n, strerror(errno));
    return;
  }
  for (unsigned i = 0; i < kBlockWords; ++i) {
    if (buffer[i] == value_of(block, i)) continue;
    corrupt("disk block %lu word %u is %016llx not %016llx", block, i,
            (unsigned long long)buffer[i], (unsigned long long)value_of(block, i));
    return;
  }
}

static void* work(void* unused) {
  struct pace pace = make_pace(2UL * kBlockSize, disk_rate_kib);
  uint64_t random = 88172645463325252ULL;  // xorshift
  for (unsigned long i = 0;; ++i) {
    next_piece(&pace);
    random ^= random << 13;
    random ^= random >> 7;
    random ^= random << 17;
    pthread_mutex_lock(&disk_lock);
    write_block(i % block_count);
    check_block(random % block_count);
    if (i % kFlushEvery == 0 && fdatasync(disk) != 0) corrupt("disk flush: %s", strerror(errno));
    pthread_mutex_unlock(&disk_lock);
    atomic_fetch_add(&done, 1);
  }
  return unused;
}

void start_disk(const char* path, unsigned long mib, unsigned long rate_kib) {
  disk = open(path, O_RDWR | O_DIRECT);
  if (disk < 0) die(path);
  const off_t size = lseek(disk, 0, SEEK_END);
  block_count = (mib << 20) / kBlockSize;
  if ((off_t)(block_count * kBlockSize) > size) block_count = (unsigned long)size / kBlockSize;
  generation = calloc(block_count + 1, sizeof *generation);
  buffer = mmap(NULL, kBlockSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (block_count == 0 || generation == NULL || buffer == MAP_FAILED) die("no room for the disk");
  disk_rate_kib = rate_kib;
  if (rate_kib > 0) start_thread(work, NULL);
}

unsigned long blocks_done(void) { return atomic_load(&done); }

unsigned long verify_disk(void) {
  unsigned long block = 0;
  for (; disk >= 0 && block < block_count; ++block) {
    pthread_mutex_lock(&disk_lock);
    check_block(block);
    pthread_mutex_unlock(&disk_lock);
  }
  return block;
}
