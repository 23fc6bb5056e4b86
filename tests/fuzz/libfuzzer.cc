// What libFuzzer, which has a main() of its own, does not know: our seeds.
//   fuzz_NAME --seeds FOLDER      writes them, as the corpus to begin with, and ends
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <string>

#include "tests/fuzz/fuzz.h"

extern "C" int LLVMFuzzerInitialize(int* count, char*** words) {
  if (*count != 3 || std::string((*words)[1]) != "--seeds") return 0;
  unsigned number = 0;
  for (const auto& seed : godwit::fuzz::fuzz_seeds()) {
    const std::string path = std::string((*words)[2]) + "/seed-" + std::to_string(number++);
    std::ofstream file(path, std::ios::binary);
    file.write(reinterpret_cast<const char*>(seed.data()),
               static_cast<std::streamsize>(seed.size()));
    if (!file.flush()) {
      std::fprintf(stderr, "%s: cannot be written\n", path.c_str());
      std::exit(1);
    }
  }
  std::exit(0);
}
