// Full-page patterns: every word of a page is its number and a generation. A worker goes round its
// share of the pages, verifies each and rewrites it with the next generation.
#include <pthread.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "workload.h"

enum { kPagesAtOnce = 16 };

struct worker {
  pthread_mutex_t lock;  // of its pages
  unsigned long first, end, next;
  uint32_t* generation;  // of page first + i
  unsigned long rate_kib;
};

static uint64_t* area;
static struct worker* all_workers;
static unsigned worker_count;
static atomic_ulong done;

static uint64_t value_of(unsigned long page, uint32_t generation) {
  return (uint64_t)page << 32 | generation;
}

static void check_page(const struct worker* w, unsigned long page) {
  const volatile uint64_t* words = area + page * kPageWords;
  const uint64_t value = value_of(page, w->generation[page - w->first]);
  for (unsigned i = 0; i < kPageWords; ++i) {
    const uint64_t word = words[i];
    if (word == value) continue;
    corrupt("memory page %lu word %u is %016llx not %016llx", page, i, (unsigned long long)word,
            (unsigned long long)value);
    return;
  }
}

static void write_page(struct worker* w, unsigned long page, uint32_t generation) {
  uint64_t* words = area + page * kPageWords;
  w->generation[page - w->first] = generation;
  for (unsigned i = 0; i < kPageWords; ++i) words[i] = value_of(page, generation);
}

static void* work(void* argument) {
  struct worker* w = argument;
  struct pace pace = make_pace((unsigned long)kPagesAtOnce * kPageSize, w->rate_kib);
  for (;;) {
    next_piece(&pace);
    pthread_mutex_lock(&w->lock);
    for (unsigned i = 0; i < kPagesAtOnce; ++i) {
      check_page(w, w->next);
      write_page(w, w->next, w->generation[w->next - w->first] + 1);
      if (++w->next == w->end) w->next = w->first;
    }
    pthread_mutex_unlock(&w->lock);
    atomic_fetch_add(&done, kPagesAtOnce);
  }
  return NULL;
}

void start_memory(unsigned long mib, unsigned workers, unsigned long rate_kib) {
  const unsigned long pages = (mib << 20) / kPageSize;
  area = mmap(NULL, pages * kPageSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  all_workers = calloc(workers, sizeof *all_workers);
  if (area == MAP_FAILED || all_workers == NULL) die("no memory for the patterns");
  worker_count = workers;
  for (unsigned i = 0; i < workers; ++i) {
    struct worker* w = &all_workers[i];
    pthread_mutex_init(&w->lock, NULL);
    w->first = w->next = pages * i / workers;
    w->end = pages * (i + 1) / workers;
    w->rate_kib = rate_kib / workers;
    w->generation = calloc(w->end - w->first + 1, sizeof *w->generation);
    if (w->generation == NULL) die("no memory for the generations");
    for (unsigned long page = w->first; page < w->end; ++page) write_page(w, page, 1);
    if (w->end > w->first && w->rate_kib > 0) start_thread(work, w);
  }
}

unsigned long pages_done(void) { return atomic_load(&done); }

unsigned long verify_memory(void) {
  unsigned long count = 0;
  for (unsigned i = 0; i < worker_count; ++i) {
    struct worker* w = &all_workers[i];
    for (unsigned long page = w->first; page < w->end; ++page, ++count) {
      pthread_mutex_lock(&w->lock);
      check_page(w, page);
      pthread_mutex_unlock(&w->lock);
    }
  }
  return count;
}
