// Drives a fuzz target without libFuzzer: mutates its seeds for a while, the same way each time.
//   fuzz_NAME [--seconds N] [--seed N] [--runs N]    mutates; what kills it is kept in crash-NAME
//   fuzz_NAME FILE...                                runs these inputs once each
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <string>

#include "tests/fuzz/fuzz.h"

extern "C" void __sanitizer_set_death_callback(void (*callback)()) __attribute__((weak));

namespace godwit::fuzz {
namespace {

constexpr std::size_t kMaxSize = 1 << 16;

std::string crash_file;
const Bytes* current = nullptr;

/// Only what a signal handler may do.
void keep_input() {
  if (current == nullptr) return;
  const int fd = ::open(crash_file.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0644);
  if (fd < 0) return;
  const ssize_t wrote = ::write(fd, current->data(), current->size());
  ::close(fd);
  static_cast<void>(wrote);
}

void on_signal(int number) {
  keep_input();
  std::signal(number, SIG_DFL);
  std::raise(number);
}

class Mutator {
 public:
  explicit Mutator(std::uint64_t seed) : random_(seed) {}

  Bytes mutate(const std::vector<Bytes>& corpus) {
    Bytes bytes = corpus[pick(corpus.size())];
    for (std::size_t i = 1 + pick(8); i > 0; --i) step(bytes, corpus);
    if (bytes.size() > kMaxSize) bytes.resize(kMaxSize);
    return bytes;
  }

 private:
  std::size_t pick(std::size_t count) { return count == 0 ? 0 : random_() % count; }

  void step(Bytes& bytes, const std::vector<Bytes>& corpus) {
    static constexpr std::uint64_t kTelling[] = {
        0,      1,          2,        0x7f, 0x80, 0xff,       0x7fff,     0x8000,
        0xffff, 0x7fffffff, 1u << 31, 4095, 4096, UINT32_MAX, UINT64_MAX, 1ull << 63};
    const std::size_t at = pick(bytes.size() + 1);
    const auto begin = bytes.begin() + static_cast<std::ptrdiff_t>(at);
    const std::size_t length = std::min(bytes.size() - at, 1 + pick(64));
    switch (pick(7)) {
      case 0:
        if (at < bytes.size()) bytes[at] ^= static_cast<std::uint8_t>(1u << pick(8));
        break;
      case 1:
        if (at < bytes.size()) bytes[at] = static_cast<std::uint8_t>(random_());
        break;
      case 2: {
        const std::uint64_t value = kTelling[pick(std::size(kTelling))];
        std::memcpy(bytes.data() + at, &value,
                    std::min(bytes.size() - at, std::size_t{1} << pick(4)));
        break;
      }
      case 3:
        bytes.erase(begin, begin + static_cast<std::ptrdiff_t>(length));
        break;
      case 4: {
        Bytes more(1 + pick(32));
        for (auto& byte : more) byte = static_cast<std::uint8_t>(random_());
        bytes.insert(begin, more.begin(), more.end());
        break;
      }
      case 5: {
        const Bytes copy(begin, begin + static_cast<std::ptrdiff_t>(length));
        bytes.insert(bytes.begin() + static_cast<std::ptrdiff_t>(pick(bytes.size() + 1)),
                     copy.begin(), copy.end());
        break;
      }
      default: {
        const Bytes& other = corpus[pick(corpus.size())];
        const auto from = other.begin() + static_cast<std::ptrdiff_t>(pick(other.size() + 1));
        bytes.erase(begin, bytes.end());
        bytes.insert(bytes.end(), from, other.end());
        break;
      }
    }
  }

  std::mt19937_64 random_;
};

void run(const Bytes& bytes) {
  current = &bytes;
  LLVMFuzzerTestOneInput(bytes.data(), bytes.size());
  current = nullptr;
}

int run_files(int count, char** files) {
  for (int i = 0; i < count; ++i) {
    std::ifstream file(files[i], std::ios::binary);
    if (!file) {
      std::fprintf(stderr, "%s: cannot be read\n", files[i]);
      return 2;
    }
    run(Bytes((std::istreambuf_iterator<char>(file)), {}));
  }
  return 0;
}

int mutate_for(double seconds, std::uint64_t seed, std::uint64_t runs) {
  const std::vector<Bytes> corpus = fuzz_seeds();
  if (corpus.empty()) {
    std::fprintf(stderr, "no seeds\n");
    return 2;
  }
  for (const Bytes& bytes : corpus) run(bytes);
  Mutator mutator(seed);
  const auto start = std::chrono::steady_clock::now();
  std::uint64_t done = 0;
  while (done < runs &&
         std::chrono::steady_clock::now() - start < std::chrono::duration<double>(seconds)) {
    run(mutator.mutate(corpus));
    ++done;
  }
  std::printf("%llu inputs, seed %llu\n", static_cast<unsigned long long>(done),
              static_cast<unsigned long long>(seed));
  return 0;
}

}  // namespace
}  // namespace godwit::fuzz

int main(int argc, char** argv) {
  using namespace godwit::fuzz;
  crash_file = "crash-" + std::filesystem::path(argv[0]).filename().string();
  std::signal(SIGALRM, on_signal);
  if (__sanitizer_set_death_callback != nullptr) {  // it has handlers of its own, that tell more
    __sanitizer_set_death_callback(keep_input);
  } else {
    for (const int number : {SIGSEGV, SIGBUS, SIGABRT, SIGILL, SIGFPE}) {
      std::signal(number, on_signal);
    }
  }
  double seconds = 3;
  std::uint64_t seed = 1;
  std::uint64_t runs = UINT64_MAX;
  int at = 1;
  for (; at + 1 < argc && argv[at][0] == '-'; at += 2) {
    const std::string flag = argv[at];
    if (flag == "--seconds") seconds = std::atof(argv[at + 1]);
    if (flag == "--seed") seed = std::strtoull(argv[at + 1], nullptr, 10);
    if (flag == "--runs") runs = std::strtoull(argv[at + 1], nullptr, 10);
  }
  ::alarm(static_cast<unsigned>(seconds) + 50);  // an input that hangs ends here, and is kept
  return at < argc ? run_files(argc - at, argv + at) : mutate_for(seconds, seed, runs);
}
